//! SimPO (arXiv 2405.14734): `L = -log sigmoid(beta (mean logp_w - mean logp_l) - margin)`, means over all tokens of a
//! response.
//!
//! The paper writes the margin as `gamma`; its tables give `gamma / beta`, and TRL's `simpo_gamma` is that too, divided
//! before it multiplies by beta: `margin = simpo_gamma` in TRL's spelling `beta (d - simpo_gamma / beta)`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Pair, log_sigmoid, mean, sigmoid, spread};

/// Length-normalised preference optimization without a reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Simpo {
    /// Scale of the mean log-probabilities.
    pub beta: f64,
    /// How far the chosen response's reward should lead, after scaling by beta.
    pub margin: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 2.0, margin: 1.0 }
    }
}

impl Simpo {
    pub(super) fn evaluate(self, pair: &Pair) -> Outcome {
        contrast(self.beta, self.margin, pair)
    }
}

/// `-log sigmoid(scale (mean logp_w - mean logp_l) - margin)` over the tokens given.
pub(super) fn contrast(scale: f64, margin: f64, pair: &Pair) -> Outcome {
    let (chosen_reward, rejected_reward) = (scale * mean(pair.chosen.logps), scale * mean(pair.rejected.logps));
    let lead = chosen_reward - rejected_reward - margin;
    let slope = -scale * sigmoid(-lead);
    Outcome {
        loss: -log_sigmoid(lead),
        chosen_grad: spread(slope, pair.chosen.logps.len()),
        rejected_grad: spread(-slope, pair.rejected.logps.len()),
        chosen_reward,
        rejected_reward,
    }
}
