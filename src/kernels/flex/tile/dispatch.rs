//! Selects the body: the one with the instructions of this processor, or the portable one.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::dtype::Dtype;
use super::portable;
use super::{PANEL, Place, TILE};
#[cfg(target_arch = "x86_64")]
use crate::kernels::flex::matrix::Matrix;

impl Dtype for f32 {
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
        assert!(parts == 1, "f32 is not split");
        out[..x.len()].copy_from_slice(x);
    }

    unsafe fn products(tile: &[f32], parts: usize, panel: &[f32], place: Place) {
        let inputs = groups(tile, parts, panel);
        #[cfg(target_arch = "x86_64")]
        if Self::is_fast() && parts == 1 {
            let x = Matrix { data: tile.as_ptr(), row_stride: inputs, col_stride: 1 };
            // SAFETY: the processor has the instructions, and the lengths were checked.
            return unsafe { avx512::products_f32::<3>(inputs, x, panel.as_ptr(), place) };
        }
        // SAFETY: the caller's contract.
        unsafe { portable::products(inputs, tile, panel, place) };
    }
}

impl Dtype for bf16 {
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
        portable::split(x, parts, out, stride);
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
                _ => portable::products(pairs, tile, panel, place),
            }
        }
    }
}

/// The number of groups of inputs.
fn groups<N: Dtype>(tile: &[N], parts: usize, panel: &[N]) -> usize {
    let groups = panel.len() / (N::GROUP * PANEL);
    let inputs = N::GROUP * groups;
    assert!(
        panel.len() == PANEL * inputs && tile.len() == parts * TILE * inputs,
        "all parts of a tile, and a whole panel"
    );
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{Tolerance, assert_close};

    fn both_bodies_agree<N: Dtype>(parts: usize) {
        let number = |index: usize| N::from_f32((index * 7919 % 1000) as f32 / 500.0 - 1.0);
        let groups = 37;
        let tile: Vec<N> = (0..parts * TILE * groups * N::GROUP).map(number).collect();
        let panel: Vec<N> = (0..PANEL * groups * N::GROUP).map(|index| number(index * 31 + 5)).collect();
        let stride = PANEL + 3;
        for (rows, columns) in [(TILE, PANEL), (1, PANEL), (TILE, 1), (5, 16), (3, 41)] {
            let (mut fast, mut slow) = (vec![0.5; TILE * stride], vec![0.5; TILE * stride]);
            let place = |out: &mut [f32]| Place {
                out: out.as_mut_ptr(),
                row_stride: stride,
                rows,
                columns,
                keep: true,
                scale: 0.5,
            };
            // SAFETY: both have the rows of a tile.
            unsafe {
                N::products(&tile, parts, &panel, place(&mut fast));
                portable::products(groups, &tile, &panel, place(&mut slow));
            }
            assert_close(&fast, &slow, Tolerance::Absolute(1e-4), format_args!("{rows} rows, {columns} columns"));
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
