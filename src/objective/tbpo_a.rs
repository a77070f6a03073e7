//! TBPO-A (arXiv 2605.12288): token-level Bregman preference optimisation in which a state's value is the divergence there,
//! `b_t = KL(pi_ref(. | s_t) || pi(. | s_t))`, over the whole vocabulary and with gradient. The formula is in [`super::tbpo`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::share_of_wrong_labels;
use super::tbpo::Tbpo;
use super::{Formula, Generator, Needs, Outcome, Pair, above_zero};
use crate::error::Problem;

/// The mean over paired tokens of a Bregman loss of `x = beta (r_l - r_w + K_l - K_w)`, where `r` is the log-ratio of
/// a token to the reference and `K` the divergence from it at that position. arXiv 2605.12288.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TbpoA {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Generator of the Bregman divergence.
    #[schemars(extend("examples" = ["lr"]))]
    pub generator: Generator,
    /// Probability that a preference label is wrong, in [0, 0.5).
    #[schemars(extend("examples" = [0.1], "x-unit" = "probability"))]
    pub label_smoothing: f64,
}

impl Default for TbpoA {
    fn default() -> Self {
        Self { beta: 0.1, generator: Generator::default(), label_smoothing: 0.0 }
    }
}

impl Formula for TbpoA {
    fn needs(&self) -> Needs {
        Needs::all().and_divergences()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let Self { beta, generator, label_smoothing } = *self;
        Tbpo { beta, generator, label_smoothing, centred: false }.evaluate(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let smoothing = share_of_wrong_labels("label_smoothing", self.label_smoothing);
        above_zero("beta", self.beta).into_iter().chain(smoothing).chain(self.generator.problems()).collect()
    }
}
