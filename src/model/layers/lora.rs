//! LoRA (arXiv 2106.09685): a frozen layer `x W` learns `x W + s (x A) B`, with A and B of a low rank.

#![allow(non_snake_case, reason = "an adapter's factors are named as in PEFT's checkpoints")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernels::input::Input;
use crate::kernels::layout::Layout;
use crate::kernels::linear::linear;

/// LoRA adapters: which layers have one, and how they are scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank of the adapters.
    #[serde(default = "default_r")]
    #[schemars(extend("examples" = [16]))]
    pub r: usize,
    /// Adapters are scaled by `alpha / r`.
    #[serde(default = "default_alpha")]
    #[schemars(extend("examples" = [32.0]))]
    pub alpha: f64,
    /// Layers to adapt, by the last components of their names. By default all linear layers except the output head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [["q_proj", "v_proj"]]))]
    pub targets: Option<Vec<String>>,
    /// Adapts only the last `last_layers` transformer layers. By default all. `score` runs the layers below only once
    /// for the adapted model and its base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [4], "x-unit" = "layers"))]
    pub last_layers: Option<usize>,
    /// Scales by `alpha / sqrt(r)` instead (arXiv 2312.03732).
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub rslora: bool,
    /// Saves the whole model with the adapters merged, instead of the adapters.
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub merge: bool,
}

/// Above the width of any layer that there is, so that room for the factors is never asked for by a slip of the pen.
const HIGHEST_RANK: usize = 1 << 16;

fn default_r() -> usize {
    16
}
fn default_alpha() -> f64 {
    32.0
}

impl Lora {
    /// A problem with the settings, if there is one.
    pub fn problem(&self) -> Option<&'static str> {
        if self.r == 0 {
            return Some("r must be above 0");
        }
        if self.r > HIGHEST_RANK {
            return Some("r must be 65536 or less");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Some("alpha must be above 0");
        }
        if self.last_layers == Some(0) {
            return Some("last_layers must be above 0");
        }
        self.targets.as_ref().is_some_and(Vec::is_empty).then_some("targets must name a layer")
    }

    /// Whether the layer `name` is adapted, in a model whose output head is named `head`.
    pub(in crate::model) fn targets(&self, name: &str, head: &str) -> bool {
        let is = |target: &String| name == target || name.ends_with(&format!(".{target}"));
        match &self.targets {
            Some(targets) => targets.iter().any(is),
            None => name != head,
        }
    }
}

/// The adapter of one layer.
#[derive(Module, Debug)]
pub struct Adapter {
    /// `[r, in]`.
    lora_A: Factor,
    /// `[out, r]`.
    lora_B: Factor,
    #[module(skip)]
    scale: f64,
}

#[derive(Module, Debug)]
struct Factor {
    weight: Param<Tensor<2>>,
}

impl Adapter {
    /// The adapter `s A B` with A `[r, in]` and B `[out, r]`.
    pub(in crate::model) fn new(a: Param<Tensor<2>>, b: Param<Tensor<2>>, scale: f64) -> Self {
        Self { lora_A: Factor { weight: a }, lora_B: Factor { weight: b }, scale }
    }

    /// The term added to the output of the layer, in the type of x: x `[rows, in]`, result `[rows, out]`.
    pub(in crate::model) fn forward(&self, x: Input) -> Tensor<2> {
        let dtype = x.dtype();
        let inner = linear(x, self.lora_A.weight.val().cast(dtype), Layout::OutIn) * self.scale;
        linear(inner, self.lora_B.weight.val().cast(dtype), Layout::OutIn)
    }

    /// The term added to the weight of the layer, `[out, in]`.
    pub(in crate::model) fn delta(&self) -> Tensor<2> {
        self.lora_B.weight.val().matmul(self.lora_A.weight.val()) * self.scale
    }
}
