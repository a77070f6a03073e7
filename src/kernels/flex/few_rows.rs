//! Products of few rows with a weight, for decoding: the weight is read once and in place, and the result of a row is bitwise
//! independent of the other rows.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::Shared;
use crate::kernels::layout::Layout;

/// The largest number of rows for these products; with more, packing the weight is faster.
pub(crate) const FEW_ROWS: usize = 64;

/// Rows and outputs (or vectors of outputs) of a tile: twelve sums fit the registers of every processor.
const TILE: usize = 4;
const OUTPUTS: usize = 3;
/// Outputs per task; a multiple of [`OUTPUTS`], and of it times every vector width.
const TASK: usize = 48;

/// `x W^T`, or `x W`: x `[rows, input]`, result `[rows, output]`.
pub(in crate::kernels) fn product(x: &[f32], weight: &[f32], [input, output]: [usize; 2], layout: Layout) -> Vec<f32> {
    let rows = x.len() / input;
    let mut out = vec![0f32; rows * output];
    let place = Shared(out.as_mut_ptr());
    (0..output.div_ceil(TASK)).into_par_iter().for_each(|task| {
        let outputs = task * TASK..((task + 1) * TASK).min(output);
        let part = Part { x, weight, input, output, outputs, out: place };
        match layout {
            Layout::OutIn => Arch::new().dispatch(Dots(part)),
            Layout::InOut => Arch::new().dispatch(Sums(part)),
        }
    });
    out
}

/// Some outputs of all rows.
struct Part<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    input: usize,
    output: usize,
    outputs: std::ops::Range<usize>,
    out: Shared,
}

impl<'a> Part<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.input..(row + 1) * self.input]
    }

    fn rows(&self) -> usize {
        self.x.len() / self.input
    }

    fn put(&self, row: usize, output: usize, values: &[f32]) {
        debug_assert!(self.outputs.contains(&output) && output + values.len() <= self.outputs.end);
        // SAFETY: `row` and the outputs lie inside the result, and no other task has these outputs.
        unsafe {
            let to = self.out.at(row * self.output + output);
            to.copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}

/// Evaluates `$call` for every tile, whose first row is `$row` and whose number of rows is the constant `$rows`.
macro_rules! for_tiles {
    ($part:expr, $row:ident, $rows:ident => $call:expr) => {
        for $row in (0..$part.rows()).step_by(TILE) {
            match $part.rows() - $row {
                1 => {
                    const $rows: usize = 1;
                    $call
                }
                2 => {
                    const $rows: usize = 2;
                    $call
                }
                3 => {
                    const $rows: usize = 3;
                    $call
                }
                _ => {
                    const $rows: usize = TILE;
                    $call
                }
            }
        }
    };
}

/// Dot products with the rows of a weight `[out, in]`.
struct Dots<'a>(Part<'a>);

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let part = &self.0;
        for output in part.outputs.clone().step_by(OUTPUTS) {
            match part.outputs.end - output {
                1 => for_tiles!(part, row, ROWS => dots::<S, ROWS, 1>(simd, part, row, output)),
                2 => for_tiles!(part, row, ROWS => dots::<S, ROWS, 2>(simd, part, row, output)),
                _ => for_tiles!(part, row, ROWS => dots::<S, ROWS, OUTPUTS>(simd, part, row, output)),
            }
        }
    }
}

/// Every product is summed in the same order, whatever the tile: vector by vector, then across the lanes.
#[expect(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
#[inline(always)]
fn dots<S: Simd, const R: usize, const O: usize>(simd: S, part: &Part, row: usize, output: usize) {
    let (x, weight) =
        (&part.x[row * part.input..][..R * part.input], &part.weight[output * part.input..][..O * part.input]);
    let lanes = size_of::<S::f32s>() / size_of::<f32>();
    let whole = part.input / lanes * lanes;
    // SAFETY: `lanes` numbers from `at` on lie inside row `index` of `matrix`, which has `input` columns.
    let load = |matrix: &[f32], index: usize, at: usize| unsafe {
        matrix.as_ptr().add(index * part.input + at).cast::<S::f32s>().read_unaligned()
    };
    let mut sums = [[simd.splat_f32s(0.0); O]; R];
    for at in (0..whole).step_by(lanes) {
        for o in 0..O {
            let weight = load(weight, o, at);
            for r in 0..R {
                sums[r][o] = simd.mul_add_e_f32s(load(x, r, at), weight, sums[r][o]);
            }
        }
    }
    let rest = |matrix: &[f32], index: usize| {
        simd.partial_load_f32s(&matrix[index * part.input + whole..(index + 1) * part.input])
    };
    for r in 0..R {
        let mut values = [0f32; O];
        for o in 0..O {
            values[o] = simd.reduce_sum_f32s(simd.mul_add_e_f32s(rest(x, r), rest(weight, o), sums[r][o]));
        }
        part.put(row + r, output, &values);
    }
}

/// Sums of the rows of a weight `[in, out]`.
struct Sums<'a>(Part<'a>);

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let part = &self.0;
        let lanes = size_of::<S::f32s>() / size_of::<f32>();
        for output in part.outputs.clone().step_by(OUTPUTS * lanes) {
            let columns = output..(output + OUTPUTS * lanes).min(part.outputs.end);
            for_tiles!(part, row, ROWS => sums::<S, ROWS>(simd, part, row, columns.clone()));
        }
    }
}

/// As [`dots`]: every sum runs over the inputs in their order.
#[inline(always)]
fn sums<S: Simd, const R: usize>(simd: S, part: &Part, row: usize, columns: std::ops::Range<usize>) {
    let lanes = size_of::<S::f32s>() / size_of::<f32>();
    let x: [_; R] = std::array::from_fn(|at| part.row(row + at));
    let mut sums = [[simd.splat_f32s(0.0); OUTPUTS]; R];
    for input in 0..part.input {
        let weight = &part.weight[input * part.output + columns.start..input * part.output + columns.end];
        let (whole, rest) = S::as_simd_f32s(weight);
        let weights: [_; OUTPUTS] = std::array::from_fn(|at| match whole.get(at) {
            Some(weight) => *weight,
            None if at == whole.len() => simd.partial_load_f32s(rest),
            None => simd.splat_f32s(0.0),
        });
        for (sums, x) in sums.iter_mut().zip(&x) {
            let x = simd.splat_f32s(x[input]);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(x, weight, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (at, sum) in sums.iter().enumerate() {
            let from = columns.start + at * lanes;
            let mut values = [0f32; 16];
            let count = lanes.min(columns.end.saturating_sub(from));
            simd.partial_store_f32s(&mut values[..lanes], *sum);
            part.put(row + r, from.min(columns.end), &values[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{Tolerance, assert_close};
    use proptest::prelude::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| (index as f32 * step).sin()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_row_does_not_depend_on_the_rows_beside_it(rows in 1usize..9, input in 1usize..70, output in 1usize..120) {
            let (x, weight) = (numbers(rows * input, 0.7), numbers(input * output, 0.3));
            for layout in [Layout::OutIn, Layout::InOut] {
                let together = product(&x, &weight, [input, output], layout);
                for row in 0..rows {
                    let own = &x[row * input..(row + 1) * input];
                    let alone = product(own, &weight, [input, output], layout);
                    prop_assert_eq!(&alone[..], &together[row * output..(row + 1) * output]);
                    let want = (0..output).map(|at| {
                        let weight = |i: usize| match layout {
                            Layout::OutIn => weight[at * input + i],
                            Layout::InOut => weight[i * output + at],
                        };
                        (0..input).map(|i| f64::from(own[i]) * f64::from(weight(i))).sum()
                    });
                    let want: Vec<f64> = want.collect();
                    assert_close(&alone, &want, Tolerance::Relative(1e-5), format_args!("{layout:?}, row {row}"));
                }
            }
        }
    }
}
