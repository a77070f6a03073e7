//! Supervised fine-tuning: `L = -sum_i log pi(y_i | x, y_<i)` over the chosen response, averaged over the batch's tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Formula, Needs, Outcome, Pair, Tokens};
use crate::error::Problem;

/// Negative log-likelihood of the chosen response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sft {}

impl Formula for Sft {
    fn needs(&self) -> Needs {
        Needs::policy([Tokens::All, Tokens::Nothing])
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        let sum: f64 = pair.chosen.logps.iter().sum();
        Outcome {
            loss: -sum,
            chosen_grad: vec![-1.0; pair.chosen.logps.len()],
            rejected_grad: Vec::new(),
            state_grads: Default::default(),
            chosen_reward: sum,
            rejected_reward: 0.0,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// A mean over tokens, as TRL's.
    fn weight(&self, chosen_tokens: usize) -> f64 {
        chosen_tokens as f64
    }
}
