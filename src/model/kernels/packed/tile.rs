//! The innermost product, a tile of rows against a panel of outputs: as plain loops, for AVX-512 and for AVX512-BF16.

use half::bf16;

/// Outputs of a panel: three registers of 16 sums.
pub(in crate::model::kernels) const PANEL: usize = 48;
/// Rows whose sums are kept in registers: 8 x 3 of 32 registers.
pub(super) const TILE: usize = 8;

/// A tile's sums.
pub(super) type Sums = [[f32; PANEL]; TILE];

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

    /// As [`Self::from_f32`], for every number of `x`.
    fn round(x: &[f32], out: &mut [Self]);

    /// Adds the products of a tile `[TILE][groups][GROUP]` and a panel `[groups][PANEL][GROUP]` to `sums`.
    fn add_products(x: &[Self], panel: &[Self], sums: &mut Sums);
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

    fn round(x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }

    fn add_products(x: &[f32], panel: &[f32], sums: &mut Sums) {
        let inputs = whole(x, panel);
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // SAFETY: the processor has the instructions, and the lengths were checked.
            return unsafe { avx512::add_products_f32(inputs, x.as_ptr(), panel.as_ptr(), sums) };
        }
        plain(inputs, x, panel, sums);
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

    fn round(x: &[f32], out: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512::round(x, out) };
        }
        x.iter().zip(out).for_each(|(x, out)| *out = bf16::from_f32(*x));
    }

    fn add_products(x: &[bf16], panel: &[bf16], sums: &mut Sums) {
        let pairs = whole(x, panel);
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // SAFETY: the processor has the instructions, and the lengths were checked.
            return unsafe { avx512::add_products_bf16(pairs, x.as_ptr(), panel.as_ptr(), sums) };
        }
        plain(pairs, x, panel, sums);
    }
}

/// The number of groups.
fn whole<N: Number>(x: &[N], panel: &[N]) -> usize {
    let groups = panel.len() / (N::GROUP * PANEL);
    let whole = [x.len(), panel.len()] == [TILE, PANEL].map(|count| count * groups * N::GROUP);
    assert!(whole, "a whole tile and a whole panel");
    groups
}

fn plain<N: Number>(groups: usize, x: &[N], panel: &[N], sums: &mut Sums) {
    for (x, sums) in x.chunks_exact(N::GROUP * groups).zip(sums) {
        for (x, weights) in x.chunks_exact(N::GROUP).zip(panel.chunks_exact(N::GROUP * PANEL)) {
            for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(N::GROUP)) {
                *sum += x.iter().zip(weights).map(|(x, weight)| x.to_f32() * weight.to_f32()).sum::<f32>();
            }
        }
    }
}

/// No closures here: one that a function without these features calls would be a call for every register.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m256bh, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use half::bf16;

    use super::{PANEL, Sums, TILE};

    /// # Safety
    /// `x` holds `TILE * inputs` numbers, `panel` `inputs * PANEL`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_products_f32(inputs: usize, x: *const f32, panel: *const f32, out: &mut Sums) {
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
        add(&sums, out);
    }

    /// # Safety
    /// `x` holds `TILE * pairs * 2` numbers, `panel` `pairs * PANEL * 2`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn add_products_bf16(pairs: usize, x: *const bf16, panel: *const bf16, out: &mut Sums) {
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
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the pair lies inside of the tile's row.
                let x = unsafe { x.add(row * pairs + pair).read_unaligned() };
                // SAFETY: both are 64 bytes of plain data.
                let x = unsafe { transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x)) };
                sums[0] = _mm512_dpbf16_ps(sums[0], x, weights[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, weights[1]);
                sums[2] = _mm512_dpbf16_ps(sums[2], x, weights[2]);
            }
        }
        add(&sums, out);
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(sums: &[[__m512; 3]; TILE], out: &mut Sums) {
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                // SAFETY: 16 numbers.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(out.as_ptr()), *sum)) };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round(x: &[f32], out: &mut [bf16]) {
        let (chunks, rest) = x.as_chunks::<16>();
        let (out_chunks, out_rest) = out.as_chunks_mut::<16>();
        for (x, out) in chunks.iter().zip(out_chunks) {
            // SAFETY: 16 numbers in, 16 out; bf16 is two bytes of plain data.
            *out = unsafe { transmute::<__m256bh, [bf16; 16]>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()))) };
        }
        rest.iter().zip(out_rest).for_each(|(x, out)| *out = bf16::from_f32(*x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_bodies_agree<N: Number>() {
        let number = |index: usize| N::from_f32((index * 7919 % 1000) as f32 / 500.0 - 1.0);
        let groups = 37;
        let x: Vec<N> = (0..TILE * groups * N::GROUP).map(number).collect();
        let panel: Vec<N> = (0..PANEL * groups * N::GROUP).map(|index| number(index * 31 + 5)).collect();
        let (mut fast, mut slow) = ([[0.5; PANEL]; TILE], [[0.5; PANEL]; TILE]);
        N::add_products(&x, &panel, &mut fast);
        plain(groups, &x, &panel, &mut slow);
        let pairs = fast.iter().flatten().zip(slow.iter().flatten());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{:?}", pairs.collect::<Vec<_>>());
    }

    #[test]
    fn both_bodies_agree_in_f32_and_in_bf16() {
        both_bodies_agree::<f32>();
        both_bodies_agree::<bf16>();
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        let x: Vec<f32> = (0..100).map(|index| 1.0 + index as f32 / 512.0).collect();
        let mut out = vec![bf16::ZERO; x.len()];
        bf16::round(&x, &mut out);
        assert_eq!(out, x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
    }
}
