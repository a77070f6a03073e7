//! Products of f32 matrices that are used once: in training, in attention, in the backward pass of the output head.
//!
//! With AVX-512 the right-hand side is packed into panels ([`super::tile`]) and the left-hand side is read in place; on other
//! processors `gemm` computes the product.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::matrix::Matrix;
use super::memory::{Shared, tensor};
use super::tile::{self, Dtype, LANES, PANEL, Place, TILE};

/// Inputs of a panel: 384 KiB, which fits the L2 cache.
const DEPTH: usize = 2048;
/// Tasks per thread, to balance the load.
const TASKS: usize = 4;

/// `lhs @ rhs` for `[m, k]` and `[k, n]`, on all threads; the result does not depend on their number.
pub(in crate::kernels) fn matmul(lhs: &FlexTensor, rhs: &FlexTensor) -> FlexTensor {
    let ([m, k], lhs) = matrix_of(lhs);
    let ([_, n], rhs) = matrix_of(rhs);
    let mut copy = Vec::new();
    let lhs = if lhs.col_stride == 1 { lhs } else { rows_of(lhs, [m, k], &mut copy) };
    let mut out = Vec::with_capacity(m * n);
    let place = Shared(out.as_mut_ptr());
    let panels = n.div_ceil(PANEL);
    let parts = (TASKS * rayon::current_num_threads()).div_ceil(panels.max(1));
    let rows = m.div_ceil(parts).next_multiple_of(TILE);
    (0..panels * m.div_ceil(rows.max(1))).into_par_iter().for_each(|task| {
        let (row, column) = (task / panels * rows, task % panels * PANEL);
        let shape = [rows.min(m - row), PANEL.min(n - column), k];
        // SAFETY: the indices are inside the matrices, and every task writes its own rows and columns.
        unsafe { product(shape, place.at(row * n + column), n, lhs.from(row, 0), rhs.from(0, column), false, 1.0) };
    });
    // SAFETY: the tasks wrote all rows and columns.
    unsafe { out.set_len(m * n) };
    tensor(out, [m, n])
}

/// The matrix of `x` `[rows, columns]`, and its shape.
fn matrix_of(x: &FlexTensor) -> ([usize; 2], Matrix) {
    let strides = x.layout().strides().to_vec();
    let data = x.storage::<f32>()[x.layout().start_offset()..].as_ptr();
    let [row_stride, col_stride] =
        [strides[0], strides[1]].map(|stride| usize::try_from(stride).expect("no tensor is flipped"));
    (x.shape().dims(), Matrix { data, row_stride, col_stride })
}

/// `x` `[rows, columns]` copied into `out` with contiguous rows.
fn rows_of(x: Matrix, [rows, columns]: [usize; 2], out: &mut Vec<f32>) -> Matrix {
    out.reserve_exact(rows * columns);
    let place = Shared(out.as_mut_ptr());
    (0..rows).into_par_iter().step_by(TILE).for_each(|first| {
        for column in 0..columns {
            for row in first..rows.min(first + TILE) {
                // SAFETY: row and column are inside the matrix, and only this task writes these rows.
                unsafe { place.at(row * columns + column).write(*x.from(row, column).data) };
            }
        }
    });
    // SAFETY: the tasks wrote all rows.
    unsafe { out.set_len(rows * columns) };
    Matrix { data: out.as_ptr(), row_stride: columns, col_stride: 1 }
}

/// `out[m, n] (rows `row_stride` elements apart) = keep * out + scale * lhs[m, k] @ rhs[k, n]`, on the calling thread.
///
/// # Safety
/// The three matrices are in live allocations, and nothing else accesses `out` meanwhile.
pub(in crate::kernels) unsafe fn product(
    [m, n, k]: [usize; 3],
    out: *mut f32,
    row_stride: usize,
    lhs: Matrix,
    rhs: Matrix,
    keep: bool,
    scale: f32,
) {
    if !f32::is_fast() {
        // SAFETY: the caller's contract; the strides are those of the matrices.
        return unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out,
                1,
                row_stride as isize,
                keep,
                lhs.data,
                lhs.col_stride as isize,
                lhs.row_stride as isize,
                rhs.data,
                rhs.col_stride as isize,
                rhs.row_stride as isize,
                f32::from(u8::from(keep)),
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            )
        };
    }
    let mut panel = Vec::new();
    for column in (0..n).step_by(PANEL) {
        let columns = PANEL.min(n - column);
        for (part, input) in (0..k.max(1)).step_by(DEPTH).enumerate() {
            let inputs = DEPTH.min(k - input);
            // SAFETY: the indices are inside the matrices, which the caller guarantees.
            unsafe {
                pack(rhs.from(input, column), [inputs, columns], &mut panel);
                for row in (0..m).step_by(TILE) {
                    let out = out.add(row * row_stride + column);
                    let rows = TILE.min(m - row);
                    let place = Place { out, row_stride, rows, columns, keep: keep || part > 0, scale };
                    tile::products(inputs, lhs.from(row, input), &panel, place);
                }
            }
        }
    }
}

/// Packs `rhs` `[inputs, columns]` into a panel `[inputs][columns up to a whole register]`; padding has no defined values.
///
/// # Safety
/// `rhs` has that shape, and the processor has AVX-512.
unsafe fn pack(rhs: Matrix, [inputs, columns]: [usize; 2], panel: &mut Vec<f32>) {
    let width = tile::width(columns);
    panel.resize(inputs * width, 0.0);
    if rhs.col_stride == 1 {
        for (input, panel) in panel.chunks_exact_mut(width).enumerate() {
            // SAFETY: the row has `columns` elements.
            unsafe {
                let (from, to) = (rhs.from(input, 0).data, panel.as_mut_ptr());
                match columns {
                    PANEL => to.cast::<[f32; PANEL]>().write_unaligned(from.cast::<[f32; PANEL]>().read_unaligned()),
                    _ => to.copy_from_nonoverlapping(from, columns),
                }
            }
        }
        return;
    }
    for (input, panel) in (0..inputs).step_by(LANES).zip(panel.chunks_mut(LANES * width)) {
        for column in (0..columns).step_by(LANES) {
            // SAFETY: the square is inside the matrix and inside the panel.
            unsafe {
                let (from, to) = (rhs.from(input, column), panel.as_mut_ptr().add(column));
                match [panel.len() / width, LANES.min(columns - column), from.row_stride] {
                    [LANES, LANES, 1] => tile::transpose(from.data, from.col_stride, to, width),
                    [inputs, columns, _] => {
                        for (input, column) in
                            (0..inputs).flat_map(|input| (0..columns).map(move |column| (input, column)))
                        {
                            *to.add(input * width + column) = *from.from(input, column).data;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::Tolerance::Absolute;
    use crate::close::assert_close;
    use burn::backend::flex::Layout;
    use burn::tensor::{Bytes, DType};
    use proptest::prelude::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| (index as f32 * step).sin()).collect()
    }

    /// A tensor `[rows, columns]`, contiguous or the transpose of a contiguous one.
    fn stored(values: Vec<f32>, [rows, columns]: [usize; 2], transposed: bool) -> FlexTensor {
        let shape = if transposed { [columns, rows] } else { [rows, columns] };
        let tensor = FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32);
        if transposed { tensor.transpose(0, 1) } else { tensor }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_product_is_the_sum_of_products(
            m in 1usize..70, n in 1usize..120, k in 1usize..90, transposed in any::<[bool; 2]>()
        ) {
            let (left, right) = (numbers(m * k, 0.7), numbers(k * n, 0.3));
            let out = matmul(&stored(left.clone(), [m, k], transposed[0]), &stored(right.clone(), [k, n], transposed[1]));
            let at = |values: &[f32], [rows, columns]: [usize; 2], transposed: bool, row: usize, column: usize| {
                f64::from(values[if transposed { column * rows + row } else { row * columns + column }])
            };
            let want = (0..m * n).map(|index| {
                let (row, column) = (index / n, index % n);
                let term = |i: usize| at(&left, [m, k], transposed[0], row, i) * at(&right, [k, n], transposed[1], i, column);
                (0..k).map(term).sum()
            });
            let want: Vec<f64> = want.collect();
            assert_close(crate::kernels::flex::memory::values(&out), &want, Absolute(1e-4), format_args!("{m} x {k} x {n}"));
        }

        #[test]
        fn a_product_is_added_to_what_is_there(m in 1usize..20, n in 1usize..70, k in 1usize..40) {
            let (left, right) = (numbers(m * k, 0.7), numbers(k * n, 0.3));
            let mut out = vec![1.0; m * n];
            let lhs = Matrix { data: left.as_ptr(), row_stride: k, col_stride: 1 };
            let rhs = Matrix { data: right.as_ptr(), row_stride: n, col_stride: 1 };
            // SAFETY: the vectors have the size of the matrices.
            unsafe { product([m, n, k], out.as_mut_ptr(), n, lhs, rhs, true, 0.5) };
            let want = (0..m * n).map(|index| {
                let term = |i: usize| left[index / n * k + i] * right[i * n + index % n];
                1.0 + 0.5 * (0..k).map(term).sum::<f32>()
            });
            assert_close(&out, &want.collect::<Vec<_>>(), Absolute(1e-4), format_args!("{m} x {k} x {n}"));
        }
    }

    #[test]
    fn long_sums_are_taken_in_pieces() {
        let (m, n, k) = (3, 50, 2 * DEPTH + 5);
        let out = matmul(&stored(vec![1.0; m * k], [m, k], false), &stored(vec![0.25; k * n], [k, n], true));
        assert_eq!(crate::kernels::flex::memory::values(&out), vec![k as f32 / 4.0; m * n]);
    }
}
