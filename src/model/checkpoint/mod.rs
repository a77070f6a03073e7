//! Reads checkpoints: where a model comes from ([`source`]), its [`files`], the [`names`] of its tensors, tensors and adapters.
//! `layers::parameters` makes parameters of them, `save` writes them.

pub(super) mod adapter;
pub mod files;
pub mod names;
pub mod source;
pub(super) mod tensors;
