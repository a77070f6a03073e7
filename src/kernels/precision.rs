//! The precision of frozen weights and their products.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Precision of frozen weights. Falls back to f32, with a warning, on a processor or device that does not support it.
/// Training uses f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Weights and activations in f32.
    #[default]
    F32,
    /// Weights in bf16, activations as the sum of two bf16 numbers, with a relative error of 2^-16. Weights that bf16
    /// cannot represent exactly, as in f32 checkpoints, stay in f32.
    Bf16x2,
    /// Weights and activations in bf16, accumulation in f32. On devices other than `cpu` the outputs of linear layers
    /// are rounded to bf16, and the output head computes in f32.
    Bf16,
}
