//! Identity preference optimization (arXiv 2310.12036): `L = (h(y_w) - h(y_l) - 1 / (2 beta))^2`, where `h(y)` is the
//! log-ratio of policy and reference.
//!
//! TRL takes the mean over a response's tokens, which the authors confirmed to it; the formula as printed, and the DPO
//! authors' code, take the sum. The two differ by the length of the answers, and so does what a beta means.
//!
//! The rewards that it reports are TRL's, which are the same for every loss: `beta` times the sum of the log-ratios, whatever the
//! loss averages. `rewards/*` of IPO and of DPO compare.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, log_ratio, spread};
use super::{Formula, Needs, Outcome, Pair, Response, above_zero};
use crate::error::Problem;

/// `(h_w - h_l - 1 / (2 beta))^2`, where `h` is the log-ratio of policy and reference, averaged over tokens. arXiv
/// 2310.12036.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ipo {
    /// Strength of the pull towards the reference. The target of the margin is `1 / (2 beta)`.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Averages log-ratios over tokens, as TRL does. If false, sums them, as in the paper's formula.
    #[schemars(extend("examples" = [false]))]
    pub length_normalized: bool,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { beta: 0.1, length_normalized: true }
    }
}

impl Contrast for Ipo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        let weights = |tokens: usize| if self.length_normalized { spread(1.0, tokens) } else { vec![1.0; tokens] };
        let reward = |response: &Response| Reward::of_ratios(response, weights(response.logps.len()));
        [reward(&pair.chosen), reward(&pair.rejected)]
    }

    fn loss(&self, margin: f64) -> Loss {
        let missing = margin - 0.5 / self.beta;
        Loss { value: missing * missing, slope: 2.0 * missing }
    }
}

impl Formula for Ipo {
    fn needs(&self) -> Needs {
        Needs::all().and_reference()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let reward = |response: &Response| self.beta * log_ratio(response).sum::<f64>();
        let rewards = [&pair.chosen, &pair.rejected].map(reward);
        Outcome { chosen_reward: rewards[0], rejected_reward: rewards[1], ..self.contrast(pair) }
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().collect()
    }
}
