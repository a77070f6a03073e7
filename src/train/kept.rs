//! What the optimizer keeps of a parameter between steps: the setting `optimizer` of a `train` stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the optimizer keeps of every parameter between steps. With bf16 numbers it takes less memory; each step computes in f32 and
/// rounds the result stochastically, so that changes smaller than bf16 represents still add up. The random numbers follow from the
/// file's `seed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kept {
    /// AdamW's two moments.
    #[schemars(extend("examples" = ["bf16"]))]
    pub state: Moments,
    /// The parameters beside the bf16 copies that passes use.
    #[schemars(extend("examples" = ["none"]))]
    pub master: Master,
}

/// Numbers of AdamW's moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// 8 bytes a parameter.
    #[default]
    F32,
    /// 4 bytes a parameter.
    Bf16,
}

/// Parameters that a step updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Master {
    /// Parameters in f32. Passes in bf16 use copies of the matrices.
    #[default]
    F32,
    /// No f32 parameters: steps update the bf16 matrices that passes use. Vectors (norms, biases) stay f32. For `precision: bf16`.
    None,
}

impl Kept {
    /// What is wrong with it where passes compute in bf16 or not, and train adapters or not.
    pub fn problem(self, is_bf16: bool, is_lora: bool) -> Option<&'static str> {
        match (self.master, is_bf16, is_lora) {
            (Master::None, false, _) => Some("`master: none` trains parameters in bf16: it needs `precision: bf16`"),
            (Master::None, true, true) => {
                Some("`master: none` has no effect with `lora`: adapters are f32, and the base is frozen in bf16")
            }
            _ => None,
        }
    }
}
