//! The operations that burn computes slowly or with too much memory, each in a file, or in a folder with a file a back end.
//!
//! A kernel is a trait with a portable body in burn's backend operations, which runs on every device; a fast body for flex (the
//! `cpu` device) on slices, made of what `flex/` has; with the feature `tch` a body of LibTorch's own operations, few launches each;
//! and a backward pass for autodiff that keeps little and recomputes the rest.

pub mod adamw;
pub mod attention;
pub mod choice;
#[cfg(feature = "tch")]
mod cuda;
pub mod embedding;
mod flex;
pub mod gelu;
pub mod indices;
pub mod input;
pub mod layer_norm;
pub mod layout;
#[cfg(feature = "tch")]
mod libtorch;
pub mod linear;
pub mod norm;
mod once;
pub mod packed;
pub mod precision;
pub mod residual;
pub mod rms_norm;
pub mod rotary;
pub mod rounding;
pub mod swiglu;
#[cfg(test)]
mod tests;
pub mod token_kl;
pub mod token_logps;
pub mod upload;
mod vocabulary;

pub(crate) use flex::few_rows::FEW_ROWS;
#[cfg(feature = "tch")]
pub(crate) use libtorch::{cuda_devices, free_on_cuda, set_tf32};
