//! In what numbers frozen weights are kept and multiplied.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of frozen weights in scoring. Training keeps f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Weights and activations in f32.
    #[default]
    F32,
    /// Weights in bf16, activations as the sum of two bf16 numbers: with a checkpoint stored in bf16 nothing but 2^-16 of an
    /// activation is lost.
    Bf16x2,
    /// Weights and activations in bf16, sums in f32.
    Bf16,
}
