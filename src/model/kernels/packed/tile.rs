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

    /// As [`Self::from_f32`], for every number of `x`; what rounding lost stays in `x`.
    fn round(x: &mut [f32], out: &mut [Self]);

    /// Adds the products of a tile `[parts][TILE][groups][GROUP]`, which is the sum of its parts, and a panel
    /// `[groups][PANEL][GROUP]` to `sums`.
    fn add_products(tile: &[Self], panel: &[Self], sums: &mut Sums);
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

    fn round(x: &mut [f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        x.fill(0.0);
    }

    fn add_products(tile: &[f32], panel: &[f32], sums: &mut Sums) {
        let inputs = groups(tile, panel);
        for x in tile.chunks_exact(TILE * inputs) {
            #[cfg(target_arch = "x86_64")]
            if Self::is_fast() {
                // SAFETY: the processor has the instructions, and the lengths were checked.
                unsafe { avx512::add_products_f32(inputs, x.as_ptr(), panel.as_ptr(), sums) };
                continue;
            }
            plain(inputs, x, panel, sums);
        }
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

    fn round(x: &mut [f32], out: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512::round(x, out) };
        }
        plain_round(x, out);
    }

    fn add_products(tile: &[bf16], panel: &[bf16], sums: &mut Sums) {
        let pairs = groups(tile, panel);
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() {
            // Two parts at a time read the panel once.
            let two = tile.chunks_exact(2 * TILE * 2 * pairs);
            let one = two.remainder();
            // SAFETY: the processor has the instructions, and the lengths were checked.
            unsafe {
                two.for_each(|x| avx512::add_products_bf16::<2>(pairs, x.as_ptr(), panel.as_ptr(), sums));
                if !one.is_empty() {
                    avx512::add_products_bf16::<1>(pairs, one.as_ptr(), panel.as_ptr(), sums);
                }
            }
            return;
        }
        tile.chunks_exact(TILE * 2 * pairs).for_each(|x| plain(pairs, x, panel, sums));
    }
}

fn plain_round(x: &mut [f32], out: &mut [bf16]) {
    for (x, out) in x.iter_mut().zip(out) {
        *out = bf16::from_f32(*x);
        *x -= out.to_f32();
    }
}

/// The number of groups of inputs.
fn groups<N: Number>(tile: &[N], panel: &[N]) -> usize {
    let groups = panel.len() / (N::GROUP * PANEL);
    let [part, whole] = [TILE, PANEL].map(|count| count * groups * N::GROUP);
    assert!(panel.len() == whole && tile.len().is_multiple_of(part), "whole parts of a tile, and a whole panel");
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
        __m256bh, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtneps_pbh, _mm512_cvtpbh_ps, _mm512_dpbf16_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps, _mm512_sub_ps,
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
    /// `x` holds `PARTS * TILE * pairs * 2` numbers, `panel` `pairs * PANEL * 2`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn add_products_bf16<const PARTS: usize>(
        pairs: usize,
        x: *const bf16,
        panel: *const bf16,
        out: &mut Sums,
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
    pub(super) fn round(x: &mut [f32], out: &mut [bf16]) {
        let (chunks, rest) = x.as_chunks_mut::<16>();
        let (out_chunks, out_rest) = out.as_chunks_mut::<16>();
        for (x, out) in chunks.iter_mut().zip(out_chunks) {
            // SAFETY: 16 numbers in, 16 out, 16 back; bf16 is two bytes of plain data.
            unsafe {
                let whole = _mm512_loadu_ps(x.as_ptr());
                let rounded = _mm512_cvtneps_pbh(whole);
                *out = transmute::<__m256bh, [bf16; 16]>(rounded);
                _mm512_storeu_ps(x.as_mut_ptr(), _mm512_sub_ps(whole, _mm512_cvtpbh_ps(rounded)));
            }
        }
        super::plain_round(rest, out_rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_bodies_agree<N: Number>() {
        let number = |index: usize| N::from_f32((index * 7919 % 1000) as f32 / 500.0 - 1.0);
        let groups = 37;
        let part = TILE * groups * N::GROUP;
        let tile: Vec<N> = (0..3 * part).map(number).collect();
        let panel: Vec<N> = (0..PANEL * groups * N::GROUP).map(|index| number(index * 31 + 5)).collect();
        let (mut fast, mut slow) = ([[0.5; PANEL]; TILE], [[0.5; PANEL]; TILE]);
        N::add_products(&tile, &panel, &mut fast);
        tile.chunks_exact(part).for_each(|x| plain(groups, x, &panel, &mut slow));
        let pairs = fast.iter().flatten().zip(slow.iter().flatten());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-4), "{:?}", pairs.collect::<Vec<_>>());
    }

    #[test]
    fn both_bodies_agree_in_f32_and_in_bf16() {
        both_bodies_agree::<f32>();
        both_bodies_agree::<bf16>();
    }

    #[test]
    fn rounding_is_to_the_nearest_even_and_keeps_the_rest() {
        let x: Vec<f32> = (0..100).map(|index| 1.0 + index as f32 / 512.0).collect();
        let (mut lost, mut out) = (x.clone(), vec![bf16::ZERO; x.len()]);
        bf16::round(&mut lost, &mut out);
        assert_eq!(out, x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
        assert_eq!(lost, x.iter().zip(&out).map(|(x, out)| x - out.to_f32()).collect::<Vec<_>>());
    }
}
