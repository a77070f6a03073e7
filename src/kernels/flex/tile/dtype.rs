//! The types that weights are stored as.

use super::Place;

/// A type that weights are stored as, and activations rounded to.
pub(in crate::kernels) trait Dtype: Copy + Send + Sync {
    /// Zero.
    const ZERO: Self;
    /// Inputs per instruction.
    const GROUP: usize;

    /// Rounds to the nearest, ties to even.
    fn from_f32(x: f32) -> Self;

    /// Converts exactly.
    fn to_f32(self) -> f32;

    /// Whether the processor has the instructions of the fast body.
    fn is_fast() -> bool;

    /// Splits every element of `x` into a sum of `parts` elements, as closely as possible; part `p` begins at `out[p * stride]`.
    fn split(x: &[f32], parts: usize, out: &mut [Self], stride: usize);

    /// The products of a tile `[parts][TILE][groups][GROUP]`, which is the sum of its parts, and a panel
    /// `[groups][PANEL][GROUP]`.
    ///
    /// # Safety
    /// The place is valid for writes, and nothing else accesses it meanwhile.
    unsafe fn products(tile: &[Self], parts: usize, panel: &[Self], place: Place);
}
