//! The innermost product, a tile of rows against a panel of outputs: as plain loops, for AVX-512 and for AVX512-BF16.

use half::bf16;

/// Outputs of a panel: three registers of 16 sums.
pub(in crate::model::kernels) const PANEL: usize = 48;
/// Rows whose sums are kept in registers: 8 x 3 of 32 registers.
pub(super) const TILE: usize = 8;

/// Where the products of a tile go: the first `rows` rows and `columns` outputs of them, `stride` numbers from row to row.
#[derive(Clone, Copy)]
pub(in crate::model::kernels) struct Place {
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What weights are stored as, and activations rounded to.
pub(in crate::model::kernels) trait Number: Copy + Send + Sync {
    /// Nothing.
    const ZERO: Self;
    /// Inputs that meet their weights in one instruction.
    const GROUP: usize;

    /// Rounds to the nearest, ties to even.
    fn from_f32(x: f32) -> Self;

    /// The number itself.
    fn to_f32(self) -> f32;

    /// Whether the processor has the instructions of the fast body.
    fn is_fast() -> bool;

    /// Splits every number of `x` into `parts` numbers, whose sum it is as nearly as they can say; part `p` of it begins at
    /// `out[p * stride]`.
    fn split(x: &[f32], parts: usize, out: &mut [Self], stride: usize);

    /// The products of a tile `[parts][TILE][groups][GROUP]`, which is the sum of its parts, and a panel
    /// `[groups][PANEL][GROUP]`.
    ///
    /// # Safety
    /// The place is valid for writes, and nobody else's meanwhile.
    unsafe fn products(tile: &[Self], parts: usize, panel: &[Self], place: Place);
}

impl Number for f32 {
    const ZERO: Self = 0.0;
    const GROUP: usize = 1;

    fn from_f32(x: f32) -> Self {
        x
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn is_fast() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    fn split(x: &[f32], parts: usize, out: &mut [f32], _: usize) {
        assert!(parts == 1, "one number says all");
        out[..x.len()].copy_from_slice(x);
    }

    unsafe fn products(tile: &[f32], parts: usize, panel: &[f32], place: Place) {
        let inputs = groups(tile, parts, panel);
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() && parts == 1 {
            // SAFETY: the processor has the instructions, and the lengths were checked.
            return unsafe { avx512::products_f32(inputs, tile.as_ptr(), panel.as_ptr(), place) };
        }
        // SAFETY: the caller's contract.
        unsafe { plain(inputs, tile, panel, place) };
    }
}

impl Number for bf16 {
    const ZERO: Self = bf16::ZERO;
    const GROUP: usize = 2;

    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    fn is_fast() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    fn split(x: &[f32], parts: usize, out: &mut [bf16], stride: usize) {
        assert!(parts > 0 && (parts - 1) * stride + x.len() <= out.len(), "room for every part");
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // SAFETY: the processor has the instructions, and the length was checked.
            return unsafe { avx512::split(x, parts, out, stride) };
        }
        plain_split(x, parts, out, stride);
    }

    unsafe fn products(tile: &[bf16], parts: usize, panel: &[bf16], place: Place) {
        let pairs = groups(tile, parts, panel);
        let (x, weights) = (tile.as_ptr(), panel.as_ptr());
        // SAFETY: the processor has the instructions, the lengths were checked, and the place is the caller's contract.
        unsafe {
            match parts {
                #[cfg(target_arch = "x86_64")]
                1 if Self::is_fast() => avx512::products_bf16::<1>(pairs, x, weights, place),
                #[cfg(target_arch = "x86_64")]
                2 if Self::is_fast() => avx512::products_bf16::<2>(pairs, x, weights, place),
                _ => plain(pairs, tile, panel, place),
            }
        }
    }
}

fn plain_split(x: &[f32], parts: usize, out: &mut [bf16], stride: usize) {
    for (index, x) in x.iter().enumerate() {
        let mut left = *x;
        for part in 0..parts {
            let rounded = bf16::from_f32(left);
            out[part * stride + index] = rounded;
            left -= rounded.to_f32();
        }
    }
}

/// The number of groups of inputs.
fn groups<N: Number>(tile: &[N], parts: usize, panel: &[N]) -> usize {
    let groups = panel.len() / (N::GROUP * PANEL);
    let inputs = N::GROUP * groups;
    assert!(
        panel.len() == PANEL * inputs && tile.len() == parts * TILE * inputs,
        "all parts of a tile, and a whole panel"
    );
    groups
}

/// # Safety
/// As for [`Number::products`].
unsafe fn plain<N: Number>(groups: usize, tile: &[N], panel: &[N], place: Place) {
    let mut sums = [[0f32; PANEL]; TILE];
    for part in tile.chunks_exact(TILE * N::GROUP * groups) {
        for (x, sums) in part.chunks_exact(N::GROUP * groups).zip(&mut sums) {
            for (x, weights) in x.chunks_exact(N::GROUP).zip(panel.chunks_exact(N::GROUP * PANEL)) {
                for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(N::GROUP)) {
                    *sum += x.iter().zip(weights).map(|(x, weight)| x.to_f32() * weight.to_f32()).sum::<f32>();
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(place.rows) {
        // SAFETY: `columns` numbers of the place's row.
        unsafe { place.out.add(row * place.stride).copy_from_nonoverlapping(sums.as_ptr(), place.columns) };
    }
}

/// No closures here: one that a function without these features calls would be a call for every register.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m256bh, __m512bh, __m512i, _mm512_cvtneps_pbh, _mm512_cvtpbh_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };
    use std::mem::transmute;

    use half::bf16;

    use super::{PANEL, Place, TILE};

    /// Writes the sums of a tile. No function: called, it would find them in memory and not in registers.
    macro_rules! store {
        ($sums:expr => $place:expr) => {
            for (row, sums) in $sums.iter().enumerate() {
                if row == $place.rows {
                    break;
                }
                for (register, sums) in sums.iter().enumerate() {
                    let columns = $place.columns.saturating_sub(16 * register);
                    // SAFETY: the place is valid for writes; a mask leaves out what lies beyond the columns.
                    unsafe {
                        let out = $place.out.add(row * $place.stride).wrapping_add(16 * register);
                        match columns {
                            16.. => _mm512_storeu_ps(out, *sums),
                            _ => _mm512_mask_storeu_ps(out, (1 << columns) - 1, *sums),
                        }
                    }
                }
            }
        };
    }

    /// # Safety
    /// `x` holds `TILE * inputs` numbers, `panel` `inputs * PANEL`; the place is valid for writes.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn products_f32(inputs: usize, x: *const f32, panel: *const f32, place: Place) {
        let mut sums = [[_mm512_setzero_ps(); 3]; TILE];
        for input in 0..inputs {
            // SAFETY: the input lies inside of the panel.
            let weights = unsafe {
                let panel = panel.add(input * PANEL);
                [_mm512_loadu_ps(panel), _mm512_loadu_ps(panel.add(16)), _mm512_loadu_ps(panel.add(32))]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the input lies inside of the tile's row.
                let x = _mm512_set1_ps(unsafe { *x.add(row * inputs + input) });
                sums[0] = _mm512_fmadd_ps(x, weights[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(x, weights[1], sums[1]);
                sums[2] = _mm512_fmadd_ps(x, weights[2], sums[2]);
            }
        }
        store!(sums => place);
    }

    /// # Safety
    /// `x` holds `PARTS * TILE * pairs * 2` numbers, `panel` `pairs * PANEL * 2`; the place is valid for writes.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn products_bf16<const PARTS: usize>(
        pairs: usize,
        x: *const bf16,
        panel: *const bf16,
        place: Place,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 3]; TILE];
        let x = x.cast::<i32>();
        for pair in 0..pairs {
            // SAFETY: the pair lies inside of the panel.
            let weights = unsafe {
                let panel = panel.add(pair * 2 * PANEL).cast::<i32>();
                [
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.cast())),
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.add(16).cast())),
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.add(32).cast())),
                ]
            };
            for part in 0..PARTS {
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the pair lies inside of the part's row.
                    let x = unsafe { x.add((part * TILE + row) * pairs + pair).read_unaligned() };
                    // SAFETY: both are 64 bytes of plain data.
                    let x = unsafe { transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x)) };
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, weights[0]);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, weights[1]);
                    sums[2] = _mm512_dpbf16_ps(sums[2], x, weights[2]);
                }
            }
        }
        store!(sums => place);
    }

    /// # Safety
    /// `out` holds all parts.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn split(x: &[f32], parts: usize, out: &mut [bf16], stride: usize) {
        let (chunks, rest) = x.as_chunks::<16>();
        for (index, x) in chunks.iter().enumerate() {
            // SAFETY: 16 numbers in, and 16 out for every part; bf16 is two bytes of plain data.
            unsafe {
                let mut left = _mm512_loadu_ps(x.as_ptr());
                for part in 0..parts {
                    let rounded = _mm512_cvtneps_pbh(left);
                    let out = out.as_mut_ptr().add(part * stride + 16 * index);
                    out.cast::<__m256bh>().write_unaligned(rounded);
                    left = _mm512_sub_ps(left, _mm512_cvtpbh_ps(rounded));
                }
            }
        }
        super::plain_split(rest, parts, &mut out[16 * chunks.len()..], stride);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_bodies_agree<N: Number>(parts: usize) {
        let number = |index: usize| N::from_f32((index * 7919 % 1000) as f32 / 500.0 - 1.0);
        let groups = 37;
        let tile: Vec<N> = (0..parts * TILE * groups * N::GROUP).map(number).collect();
        let panel: Vec<N> = (0..PANEL * groups * N::GROUP).map(|index| number(index * 31 + 5)).collect();
        let stride = PANEL + 3;
        for (rows, columns) in [(TILE, PANEL), (1, PANEL), (TILE, 1), (5, 16), (3, 41)] {
            let (mut fast, mut slow) = (vec![0.5; TILE * stride], vec![0.5; TILE * stride]);
            let place = |out: &mut [f32]| Place { out: out.as_mut_ptr(), stride, rows, columns };
            // SAFETY: both hold as many rows as a tile.
            unsafe {
                N::products(&tile, parts, &panel, place(&mut fast));
                plain(groups, &tile, &panel, place(&mut slow));
            }
            let pairs = fast.iter().zip(&slow);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{:?}", pairs.collect::<Vec<_>>());
            let outside = |(index, _): &(usize, &f32)| index / stride >= rows || index % stride >= columns;
            assert!(fast.iter().enumerate().filter(outside).all(|(_, value)| *value == 0.5), "{rows} {columns}");
        }
    }

    #[test]
    fn both_bodies_agree_in_f32_and_in_bf16() {
        both_bodies_agree::<f32>(1);
        both_bodies_agree::<bf16>(1);
        both_bodies_agree::<bf16>(2);
        both_bodies_agree::<bf16>(3);
    }

    #[test]
    fn parts_are_rounded_to_the_nearest_even_and_add_up() {
        let x: Vec<f32> = (0..100).map(|index| 1.0 + index as f32 / 512.0 + index as f32 / 1e6).collect();
        let stride = x.len() + 7;
        let mut out = vec![bf16::ZERO; 2 * stride];
        bf16::split(&x, 2, &mut out, stride);
        let first: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        let second: Vec<bf16> = x.iter().zip(&first).map(|(x, first)| bf16::from_f32(x - first.to_f32())).collect();
        assert_eq!(out[..x.len()], first);
        assert_eq!(out[stride..][..x.len()], second);
    }
}
