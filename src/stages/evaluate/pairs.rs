//! What a model makes of pairs: which answer it finds likelier, by how much, and how far it went from the model that it
//! started from.

use arrow::array::RecordBatch;
use serde_json::json;

use crate::columns::Side;
use crate::columns::lists::{assistant_masks, marked};
use crate::error::Result;
use crate::model::{PairIds, Scorer};
use crate::stages::Metrics;
use crate::stages::score::pairs;

/// Sums over pairs for one model.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pairs: f64,
    likelier: f64,
    likelier_by_mean: f64,
    rewarded: f64,
    logps: [f64; 2],
    mean_margin: f64,
    reward_margin: f64,
    drift: [f64; 2],
    tokens: [f64; 2],
}

impl Sums {
    /// Adds the rows of `batch` under `model`, against `start`.
    pub(super) fn add(&mut self, model: &Scorer, start: &Scorer, batch: &RecordBatch) -> Result<()> {
        let (prompts, sides) = pairs(batch)?;
        let pairs: Vec<PairIds> = (0..batch.num_rows())
            .map(|row| PairIds { prompt: prompts.row(row), responses: sides.map(|side| side.row(row)) })
            .collect();
        let own = [assistant_masks(batch, Side::Chosen)?, assistant_masks(batch, Side::Rejected)?];
        let spoken = |row: usize, logps: &[Vec<f32>; 2]| {
            [0, 1].map(|side| match &own[side] {
                Some(own) => marked(&logps[side], &own[row]),
                None => logps[side].clone(),
            })
        };
        let sum = |logps: &[f32]| logps.iter().copied().map(f64::from).sum::<f64>();
        for (row, (own, start)) in model.logps(&pairs)?.iter().zip(&start.logps(&pairs)?).enumerate() {
            let (own, start) = (spoken(row, own), spoken(row, start));
            let lengths = own.each_ref().map(|logps| logps.len() as f64);
            let (own, start) = (own.each_ref().map(|logps| sum(logps)), start.each_ref().map(|logps| sum(logps)));
            let means = [own[0] / lengths[0], own[1] / lengths[1]];
            let gains = [own[0] - start[0], own[1] - start[1]];
            let count = |holds: bool| f64::from(u8::from(holds));
            self.pairs += 1.0;
            self.likelier += count(own[0] > own[1]);
            self.likelier_by_mean += count(means[0] > means[1]);
            self.rewarded += count(gains[0] > gains[1]);
            self.mean_margin += means[0] - means[1];
            self.reward_margin += gains[0] - gains[1];
            for side in 0..2 {
                self.logps[side] += own[side];
                self.drift[side] += gains[side];
                self.tokens[side] += lengths[side];
            }
        }
        Ok(())
    }

    /// Means over the pairs. `accuracy`: the chosen answer is likelier per token; `sum_accuracy`: as a whole;
    /// `reward_accuracy`: it gained more against the start model. Drift is in nats a token.
    pub(super) fn metrics(&self) -> Metrics {
        let pairs = self.pairs.max(1.0);
        let numbers = json!({
            "pairs": self.pairs as u64,
            "accuracy": self.likelier_by_mean / pairs,
            "sum_accuracy": self.likelier / pairs,
            "reward_accuracy": self.rewarded / pairs,
            "mean_logp_margin": self.mean_margin / pairs,
            "reward_margin": self.reward_margin / pairs,
            "chosen_logps": self.logps[0] / pairs,
            "rejected_logps": self.logps[1] / pairs,
            "chosen_drift": self.drift[0] / self.tokens[0].max(1.0),
            "rejected_drift": self.drift[1] / self.tokens[1].max(1.0),
        });
        numbers.as_object().cloned().unwrap_or_default()
    }
}
