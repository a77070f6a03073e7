//! What a step of a training says: sums over its pairs, which become its metrics.

use serde_json::{Map, Value, json};

use crate::model::cost::Workload;
use crate::objective::{Objective, Outcome, Tokens};

/// What a step, or a look at the held-out data, saw: sums over its pairs.
#[derive(Debug, Default)]
pub(super) struct StepSums {
    pub(super) loss: f64,
    pub(super) weight: f64,
    pairs: f64,
    chosen_reward: f64,
    rejected_reward: f64,
    accurate: f64,
    pub(super) work: Workload,
    pub(super) grad_norm: Option<f64>,
}

impl StepSums {
    pub(super) fn add_all(&mut self, outcomes: &[Outcome], weights: &[f64]) {
        outcomes.iter().zip(weights).for_each(|(outcome, weight)| self.add(outcome, *weight));
    }

    fn add(&mut self, outcome: &Outcome, weight: f64) {
        self.loss += outcome.loss;
        self.weight += weight;
        self.pairs += 1.0;
        self.chosen_reward += outcome.chosen_reward;
        self.rejected_reward += outcome.rejected_reward;
        self.accurate += f64::from(u8::from(outcome.chosen_reward > outcome.rejected_reward));
    }

    pub(super) fn metrics(&self, objective: &Objective) -> Map<String, Value> {
        let mut metrics = Map::new();
        let mut put = |name: &str, value: f64| metrics.insert(name.to_owned(), json!(value));
        put("loss", self.loss);
        if let Some(norm) = self.grad_norm {
            put("grad_norm", norm);
        }
        if objective.formula().needs().tokens[1] != Tokens::Nothing {
            let pairs = self.pairs.max(1.0);
            put("rewards/chosen", self.chosen_reward / pairs);
            put("rewards/rejected", self.rejected_reward / pairs);
            put("rewards/margins", (self.chosen_reward - self.rejected_reward) / pairs);
            put("rewards/accuracies", self.accurate / pairs);
        }
        metrics.insert("tokens".to_owned(), json!(self.work.tokens as u64));
        metrics
    }
}
