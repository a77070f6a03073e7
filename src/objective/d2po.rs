//! D2PO (arXiv 2502.14340): the base's rewards with a decay over the response, `r(y) = sum_t gamma^t b_t (…)`, where `b_t` is
//! the base's weight of token t, counted from 1. The paper has gamma 0.98 and searches 0.95 to 0.99.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward};
use super::{Base, Formula, Needs, Outcome, Pair, must_be};
use crate::error::Problem;

/// The base's loss with token t of a response, counted from 1, weighted by `gamma^t`. arXiv 2502.14340.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct D2po {
    /// The objective whose token weights decay.
    #[schemars(extend("examples" = [{"simpo": {}}]))]
    pub base: Base,
    /// Factor between the weights of consecutive tokens, in (0, 1]; 1 is the base.
    #[schemars(extend("examples" = [0.98]))]
    pub gamma: f64,
}

impl Default for D2po {
    fn default() -> Self {
        Self { base: Base::default(), gamma: 0.98 }
    }
}

impl Contrast for D2po {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        let powers = || std::iter::successors(Some(self.gamma), |power| Some(power * self.gamma));
        self.base.contrast().rewards(pair).map(|reward| reward.weighted(powers()))
    }

    fn loss(&self, margin: f64) -> Loss {
        self.base.contrast().loss(margin)
    }
}

impl Formula for D2po {
    fn needs(&self) -> Needs {
        self.base.contrast().needs()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let gamma = must_be("gamma", self.gamma, self.gamma > 0.0 && self.gamma <= 1.0, "in (0, 1]");
        gamma.into_iter().chain(self.base.problems()).collect()
    }
}
