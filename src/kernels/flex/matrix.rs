//! A matrix by its place in memory, as the products take it.

/// A matrix in memory: its first element and the distances between rows and columns.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Matrix {
    pub(in crate::kernels) data: *const f32,
    pub(in crate::kernels) row_stride: usize,
    pub(in crate::kernels) col_stride: usize,
}

// SAFETY: whoever makes one vouches for what it points to, wherever that is read.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// What lies right of and below an element.
    ///
    /// # Safety
    /// The element lies in the matrix.
    pub(in crate::kernels) unsafe fn from(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller's contract.
        Self { data: unsafe { self.data.add(row * self.row_stride + column * self.col_stride) }, ..self }
    }

    /// Its transpose.
    pub(in crate::kernels) fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}
