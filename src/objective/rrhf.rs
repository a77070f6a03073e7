//! RRHF (arXiv 2304.05302): `L = max(0, p_l - p_w) - sft_weight sum_t log pi(y_w,t)`, where `p` is the mean
//! log-probability of a response.
//!
//! The paper has an `sft_weight` of 1; SimPO's comparison searches 0.1 to 10. The authors' code takes the mean where the
//! paper has the sum, and multiplies the hinge by 100.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, hinge};
use super::simpo::mean_reward;
use super::{Formula, Needs, Outcome, Pair, at_least_zero};
use crate::error::Problem;

/// `max(0, mean logp_l - mean logp_w) - sft_weight sum logp_w`. arXiv 2304.05302.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rrhf {
    /// Weight of the negative log-likelihood of the chosen response.
    #[schemars(extend("examples" = [1.0]))]
    pub sft_weight: f64,
}

impl Default for Rrhf {
    fn default() -> Self {
        Self { sft_weight: 1.0 }
    }
}

impl Contrast for Rrhf {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        [&pair.chosen, &pair.rejected].map(|response| mean_reward(1.0, response))
    }

    fn loss(&self, margin: f64) -> Loss {
        hinge(margin, 0.0)
    }
}

impl Formula for Rrhf {
    fn needs(&self) -> Needs {
        Needs::all()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let mut outcome = self.contrast(pair);
        outcome.loss -= self.sft_weight * pair.chosen.logps.iter().sum::<f64>();
        outcome.chosen_grad.iter_mut().for_each(|grad| *grad -= self.sft_weight);
        outcome
    }

    fn problems(&self) -> Vec<Problem> {
        at_least_zero("sft_weight", self.sft_weight).into_iter().collect()
    }
}
