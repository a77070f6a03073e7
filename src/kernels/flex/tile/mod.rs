//! The innermost product: a tile of rows and a panel of outputs.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod dtype;
#[cfg(not(target_arch = "x86_64"))]
mod nowhere;
mod portable;

#[cfg(target_arch = "x86_64")]
use super::matrix::Matrix;
pub(in crate::kernels) use dtype::Dtype;

/// Outputs of a panel: three registers of 16 sums.
pub(in crate::kernels) const PANEL: usize = 48;
/// Rows whose sums are kept in registers: 8 x 3 of 32 registers.
pub(in crate::kernels) const TILE: usize = 8;

/// Elements of a register.
pub(in crate::kernels) const LANES: usize = 16;

/// The destination of the products of a tile: `rows` rows and `columns` columns, with rows `row_stride` elements apart.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Place {
    pub(in crate::kernels) out: *mut f32,
    pub(in crate::kernels) row_stride: usize,
    pub(in crate::kernels) rows: usize,
    pub(in crate::kernels) columns: usize,
    /// Whether products are added to the values there.
    pub(in crate::kernels) keep: bool,
    /// The factor of the products.
    pub(in crate::kernels) scale: f32,
}

impl Place {
    /// # Safety
    /// The place is valid for writes, and nothing else accesses it meanwhile.
    unsafe fn write(self, sums: &[[f32; PANEL]; TILE]) {
        for (row, sums) in sums.iter().enumerate().take(self.rows) {
            for (column, sum) in sums.iter().enumerate().take(self.columns) {
                // SAFETY: the caller's contract.
                unsafe {
                    let out = self.out.add(row * self.row_stride + column);
                    *out = if self.keep { *out } else { 0.0 } + self.scale * sum;
                }
            }
        }
    }
}

/// Elements of a row of a panel with `columns` columns: whole registers.
pub(in crate::kernels) fn width(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// The products of up to [`TILE`] rows of `x`, of `inputs` elements each, and a panel `[inputs][width(columns)]`.
///
/// # Safety
/// The processor has AVX-512 ([`Dtype::is_fast`]), `x` has the rows of the place, and the place is valid for writes, and nothing
/// else accesses it meanwhile.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) unsafe fn products(inputs: usize, x: Matrix, panel: &[f32], place: Place) {
    assert!(panel.len() == inputs * width(place.columns), "a whole panel");
    // SAFETY: the caller's contract, and the length was checked.
    unsafe {
        match width(place.columns) / LANES {
            1 => avx512::products_f32::<1>(inputs, x, panel.as_ptr(), place),
            2 => avx512::products_f32::<2>(inputs, x, panel.as_ptr(), place),
            _ => avx512::products_f32::<3>(inputs, x, panel.as_ptr(), place),
        }
    }
}

/// Transposes the square of [`LANES`] rows at `from`, `stride` elements apart, into rows at `to`, `width` elements apart.
///
/// # Safety
/// The processor has AVX-512, and both squares are valid, the second one for writes.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, width: usize) {
    // SAFETY: the caller's contract.
    unsafe { avx512::transpose(from, stride, to, width) };
}

#[cfg(not(target_arch = "x86_64"))]
pub(in crate::kernels) use nowhere::{products, transpose};
