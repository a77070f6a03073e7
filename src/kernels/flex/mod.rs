//! Building blocks of the bodies for flex: vectorized loops, products of matrices, and the memory of tensors.

pub(super) mod few_rows;
pub(super) mod matrix;
pub(super) mod memory;
pub(super) mod product;
pub(super) mod simd;
pub(super) mod tile;
