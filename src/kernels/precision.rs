//! The precision of frozen weights and their products.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Precision of weights and products. Falls back to f32, with a warning, on a processor or device that does not support it. `score` and
/// `generate` take it from the top of the file; `train` has a setting of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Weights and activations in f32.
    #[default]
    F32,
    /// Weights in bf16, activations as the sum of two bf16 numbers, with a relative error of 2^-16. Weights that bf16
    /// cannot represent exactly, as in f32 checkpoints, stay in f32.
    Bf16x2,
    /// Weights and activations in bf16, accumulation in f32. On devices other than `cpu` the outputs of linear layers and of attention
    /// are bf16 too; the residual stream, norms and logits are f32.
    Bf16,
    /// Weights and activations in f32; products round what they multiply to TF32 (10 bits of mantissa), with sums in f32. For
    /// `libtorch:cuda:N` alone.
    Tf32,
}

impl Precision {
    /// Sets what CUDA devices make of products in f32, for the whole process. Called before passes in this precision.
    pub(crate) fn begin(self) {
        #[cfg(feature = "tch")]
        super::libtorch::set_tf32(self == Self::Tf32);
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16x2 => "bf16x2",
            Self::Bf16 => "bf16",
            Self::Tf32 => "tf32",
        })
    }
}
