//! Checkpoints on disk: where a model lies ([`source`]), the files of a folder and the names of its tensors, and how tensors
//! and adapters are read. What was read becomes parameters in `layers`; `save` writes folders.

pub(super) mod adapter;
pub mod files;
pub mod names;
pub mod source;
pub(super) mod tensors;
