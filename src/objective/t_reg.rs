//! T-REG (arXiv 2412.02685): token rewards as a regulariser of a sequence-level objective.
//!
//! `L = L_base + alpha w (L_reg(y_w) + L_reg(y_l))`, `L_reg(y) = -sum_t b_t rhat_t log pi(y_t | x, y_<t)`.
//!
//! `b_t log pi(y_t)` is the reward that the base gives a token implicitly (`b_t` is beta for DPO, `beta / |y|` for SimPO);
//! L_reg pulls it towards the stored reward `rhat_t`. `w` is the weight that the base's gradient gives the pair,
//! `sigmoid(r(y_l) - r(y_w))` for DPO, and is no function of the policy: no gradient flows through it.
//!
//! The paper's `rhat` comes from contrastive prompts and lies in [-0.5, 0.5] (`score` with `contrast`). Its search has
//! alpha in 0.1, 0.25, 0.5; it finds a constant `w`, and rewards of a DPO model, to be worse.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{margin, outcome};
use super::{Base, Formula, Needs, Outcome, Pair, at_least_zero};
use crate::error::Problem;

/// The base's loss plus `-alpha w sum_t b_t reward_t logp_t` over both responses, where `b_t` is the weight that the
/// base gives a token and `w` that of the pair. arXiv 2412.02685.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TReg {
    /// The objective to regularise.
    #[schemars(extend("examples" = [{"simpo": {}}]))]
    pub base: Base,
    /// Strength of the regulariser.
    #[schemars(extend("examples" = [0.25]))]
    pub alpha: f64,
    /// Weights the regulariser of a pair by the weight of the pair in the base's gradient. If false, the weight is 1.
    #[schemars(extend("examples" = [false]))]
    pub sequence_weight: bool,
}

impl Default for TReg {
    fn default() -> Self {
        Self { base: Base::default(), alpha: 0.25, sequence_weight: true }
    }
}

impl Formula for TReg {
    fn needs(&self) -> Needs {
        self.base.contrast().needs().and_rewards()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let base = self.base.contrast();
        let rewards = base.rewards(pair);
        let loss = base.loss(margin(&rewards));
        let mut outcome = outcome(&rewards, loss);
        // A smoothed base turns back from large margins; the regulariser does not turn with it.
        let pair_weight = if self.sequence_weight { (-loss.slope).max(0.0) } else { 1.0 };
        let grads = [&mut outcome.chosen_grad, &mut outcome.rejected_grad];
        for ((response, reward), grads) in [&pair.chosen, &pair.rejected].into_iter().zip(&rewards).zip(grads) {
            let tokens = reward.weights.iter().zip(response.rewards).zip(response.logps);
            for (grad, ((weight, token_reward), logp)) in grads.iter_mut().zip(tokens) {
                let slope = -self.alpha * pair_weight * weight * f64::from(*token_reward);
                *grad += slope;
                outcome.loss += slope * logp;
            }
        }
        outcome
    }

    fn problems(&self) -> Vec<Problem> {
        at_least_zero("alpha", self.alpha).into_iter().chain(self.base.problems()).collect()
    }
}
