//! A matrix in memory, by pointer and strides.

/// A pointer to the first element, and the distances between rows and between columns, in elements.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Matrix {
    pub(in crate::kernels) data: *const f32,
    pub(in crate::kernels) row_stride: usize,
    pub(in crate::kernels) col_stride: usize,
}

// SAFETY: the functions that read through the pointer are unsafe and require valid memory.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// The submatrix that begins at an element.
    ///
    /// # Safety
    /// The element lies in the matrix.
    #[inline]
    pub(in crate::kernels) unsafe fn from(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller's contract.
        Self { data: unsafe { self.data.add(row * self.row_stride + column * self.col_stride) }, ..self }
    }

    /// Its transpose.
    #[inline]
    pub(in crate::kernels) fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}
