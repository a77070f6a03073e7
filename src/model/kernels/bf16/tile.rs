//! The innermost product: a tile of rows against a panel of outputs, as plain loops and for AVX512-BF16.

use half::bf16;

/// Outputs of a panel: three registers of 16 sums.
pub(in crate::model::kernels) const PANEL: usize = 48;
/// Rows whose sums are kept in registers: 8 x 3 of 32 registers.
pub(super) const TILE: usize = 8;

/// A tile's sums.
pub(super) type Sums = [[f32; PANEL]; TILE];

/// Whether this processor multiplies bf16 in hardware.
pub(super) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Adds the products of a tile `[TILE][pairs][2]` and a panel `[pairs][PANEL][2]` to `sums`.
pub(super) fn add_products(x: &[bf16], panel: &[bf16], sums: &mut Sums) {
    let pairs = panel.len() / (2 * PANEL);
    assert!(x.len() == TILE * pairs * 2 && panel.len() == pairs * PANEL * 2, "a whole tile and a whole panel");
    #[cfg(target_arch = "x86_64")]
    if is_fast() {
        // SAFETY: the processor has the instructions, and the lengths were checked.
        return unsafe { avx512::add_products(pairs, x.as_ptr(), panel.as_ptr(), sums) };
    }
    plain(x, panel, sums);
}

/// Rounds `x` to bf16, to the nearest, ties to even.
pub(super) fn round(x: &[f32], out: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if is_fast() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::round(x, out) };
    }
    x.iter().zip(out).for_each(|(x, out)| *out = bf16::from_f32(*x));
}

fn plain(x: &[bf16], panel: &[bf16], sums: &mut Sums) {
    let pairs = panel.len() / (2 * PANEL);
    for (x, sums) in x.chunks_exact(2 * pairs).zip(sums) {
        for (x, weights) in x.chunks_exact(2).zip(panel.chunks_exact(2 * PANEL)) {
            let [a, b] = [x[0].to_f32(), x[1].to_f32()];
            for (sum, weight) in sums.iter_mut().zip(weights.chunks_exact(2)) {
                *sum += a * weight[0].to_f32() + b * weight[1].to_f32();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m256bh, __m512bh, __m512i, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use half::bf16;

    use super::{PANEL, Sums, TILE};

    /// # Safety
    /// `x` holds `TILE * pairs * 2` numbers, `panel` `pairs * PANEL * 2`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn add_products(pairs: usize, x: *const bf16, panel: *const bf16, out: &mut Sums) {
        // SAFETY: every load and store stays inside what the caller and the type of `out` promise.
        unsafe {
            let mut sums: [_; TILE] = std::array::from_fn(|row| {
                std::array::from_fn::<_, 3, _>(|third| _mm512_loadu_ps(out[row].as_ptr().add(third * 16)))
            });
            let x = x.cast::<i32>();
            for pair in 0..pairs {
                let panel = panel.add(pair * 2 * PANEL);
                let weights: [__m512bh; 3] = std::array::from_fn(|third| {
                    transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.add(third * 32).cast()))
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x =
                        transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x.add(row * pairs + pair).read_unaligned()));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(*sum, x, weights);
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                for (third, sum) in sums.into_iter().enumerate() {
                    _mm512_storeu_ps(out.as_mut_ptr().add(third * 16), sum);
                }
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

    #[test]
    fn both_bodies_agree() {
        let number = |index: usize| bf16::from_f32((index * 7919 % 1000) as f32 / 500.0 - 1.0);
        let pairs = 37;
        let x: Vec<bf16> = (0..TILE * pairs * 2).map(number).collect();
        let panel: Vec<bf16> = (0..PANEL * pairs * 2).map(|index| number(index * 31 + 5)).collect();
        let (mut fast, mut slow) = ([[0.5; PANEL]; TILE], [[0.5; PANEL]; TILE]);
        add_products(&x, &panel, &mut fast);
        plain(&x, &panel, &mut slow);
        let pairs = fast.iter().flatten().zip(slow.iter().flatten());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{:?}", pairs.collect::<Vec<_>>());
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        let x: Vec<f32> = (0..100).map(|index| 1.0 + index as f32 / 512.0).collect();
        let mut out = vec![bf16::ZERO; x.len()];
        round(&x, &mut out);
        assert_eq!(out, x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
    }
}
