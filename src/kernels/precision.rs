//! In what numbers frozen weights are kept and multiplied.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of frozen weights in scoring; f32 where the processor or device has no others, with a warning. Training keeps f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Weights and activations in f32.
    #[default]
    F32,
    /// Weights that bf16 holds exactly in bf16, activations as the sum of two bf16 numbers: nothing but 2^-16 of an activation is
    /// lost. Other weights, of a checkpoint that is stored in f32, stay in f32.
    Bf16x2,
    /// Weights and activations in bf16, sums in f32. On other devices than `cpu` what a layer gives is rounded to bf16 too, and the
    /// output head multiplies in f32.
    Bf16,
}
