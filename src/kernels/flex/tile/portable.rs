//! The bodies as plain loops, for processors without AVX-512.

use half::bf16;

use super::dtype::Dtype;
use super::{PANEL, Place, TILE};

/// As [`Dtype::split`], which checks the length of `out`.
pub(super) fn split(x: &[f32], parts: usize, out: &mut [bf16], stride: usize) {
    for (index, x) in x.iter().enumerate() {
        let mut left = *x;
        for part in 0..parts {
            let rounded = bf16::from_f32(left);
            out[part * stride + index] = rounded;
            left -= rounded.to_f32();
        }
    }
}

/// As [`Dtype::products`], for tiles with `groups` groups of inputs.
///
/// # Safety
/// The place is valid for writes, and nothing else accesses it meanwhile.
pub(super) unsafe fn products<N: Dtype>(groups: usize, tile: &[N], panel: &[N], place: Place) {
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
    // SAFETY: the caller's contract.
    unsafe { place.write(&sums) };
}
