//! Supervised fine-tuning: `L = -sum_i log pi(y_i | x, y_<i)` over the chosen response, averaged over the batch's tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Pair};

/// Negative log-likelihood of the chosen response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sft {}

impl Sft {
    pub(super) fn evaluate(self, pair: &Pair) -> Outcome {
        let sum: f64 = pair.chosen.logps.iter().sum();
        Outcome {
            loss: -sum,
            chosen_grad: vec![-1.0; pair.chosen.logps.len()],
            rejected_grad: Vec::new(),
            chosen_reward: sum,
            rejected_reward: 0.0,
        }
    }
}
