//! The vocabulary in blocks, as the kernels of the output head go through it: logits `[rows, vocabulary]` exist for one
//! block of rows and entries at a time.

pub(super) mod flex;
pub(super) mod portable;
