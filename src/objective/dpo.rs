//! Direct preference optimization (arXiv 2305.18290), sigmoid form with label smoothing (cDPO):
//!
//! `L = -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)`, where `d` is the sum over the chosen response of policy
//! minus reference log-probabilities, minus the same of the rejected one. Rewards are `beta` times those sums.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Pair, Response, log_sigmoid, sigmoid};

/// DPO on sums over whole responses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// Strength of the pull towards the reference, per nat.
    pub beta: f64,
    /// Probability that a preference label is wrong, in [0, 0.5).
    pub label_smoothing: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

impl Dpo {
    pub(super) fn evaluate(self, pair: &Pair) -> Outcome {
        let Self { beta, label_smoothing: e } = self;
        let reward = |response: &Response| {
            let reference: f64 = response.reference.iter().copied().map(f64::from).sum();
            beta * (response.logps.iter().sum::<f64>() - reference)
        };
        let (chosen_reward, rejected_reward) = (reward(&pair.chosen), reward(&pair.rejected));
        let margin = chosen_reward - rejected_reward;
        let slope = beta * (e * sigmoid(margin) - (1.0 - e) * sigmoid(-margin));
        Outcome {
            loss: -(1.0 - e) * log_sigmoid(margin) - e * log_sigmoid(-margin),
            chosen_grad: vec![slope; pair.chosen.logps.len()],
            rejected_grad: vec![-slope; pair.rejected.logps.len()],
            chosen_reward,
            rejected_reward,
        }
    }
}
