//! What the bodies for flex are made of: loops in vectors, products of matrices, and the memory of tensors.

pub(super) mod few_rows;
pub(super) mod matrix;
pub(super) mod memory;
pub(super) mod product;
pub(super) mod simd;
pub(super) mod tile;
