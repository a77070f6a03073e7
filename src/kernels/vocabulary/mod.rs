//! Logits in blocks, for the kernels of the output head: of the matrix `[rows, vocabulary]` only a block of rows and entries exists
//! at a time.

pub(super) mod flex;
pub(super) mod portable;
