//! TBPO-Q (arXiv 2605.12288): token-level Bregman preference optimisation in which a state's value is learned. `b_t` is what a
//! small head says about the policy's last hidden state before the token; no gradient flows from it into the policy.
//! Differences of `b` have mean 0 over a pair and are cut off at 10. The formula is in [`super::tbpo`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::share_of_wrong_labels;
use super::tbpo::Tbpo;
use super::{Formula, Generator, Needs, Outcome, Pair, above_zero, must_be};
use crate::error::Problem;

/// The mean over paired tokens of a Bregman loss of `x = beta (r_l - r_w + b_l - b_w)`, where `r` is the log-ratio of
/// a token to the reference and `b` a learned value of the state before it. arXiv 2605.12288.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TbpoQ {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Generator of the Bregman divergence.
    #[schemars(extend("examples" = ["lr"]))]
    pub generator: Generator,
    /// Probability that a preference label is wrong, in [0, 0.5).
    #[schemars(extend("examples" = [0.1], "x-unit" = "probability"))]
    pub label_smoothing: f64,
    /// Width of the head that learns the values of states.
    #[schemars(extend("examples" = [512]))]
    pub width: usize,
}

impl Default for TbpoQ {
    fn default() -> Self {
        Self { beta: 0.1, generator: Generator::default(), label_smoothing: 0.0, width: 1024 }
    }
}

impl Formula for TbpoQ {
    fn needs(&self) -> Needs {
        Needs::all().and_reference().and_baselines(self.width)
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let Self { beta, generator, label_smoothing, .. } = *self;
        Tbpo { beta, generator, label_smoothing, centred: true }.evaluate(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let smoothing = share_of_wrong_labels("label_smoothing", self.label_smoothing);
        let width = must_be("width", self.width as f64, (1..=1 << 16).contains(&self.width), "from 1 to 65536");
        let settings = above_zero("beta", self.beta).into_iter().chain(smoothing).chain(width);
        settings.chain(self.generator.problems()).collect()
    }
}
