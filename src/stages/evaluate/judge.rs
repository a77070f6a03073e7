//! Who says how good an answer is.

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quickstart::Verdict;
use crate::columns::{PROMPT, messages, role, words};
use crate::error::Result;
use crate::model::{PairIds, Scorer};

/// A judge of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The rules of the quickstart's data: correct facts, politeness, format.
    Quickstart,
    /// The reward that a DPO-trained oracle implies: `log oracle(y | x) - log reference(y | x)`, in nats.
    Reward(Reward),
}

/// The models that define a reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Model trained with DPO.
    #[schemars(extend("examples" = ["oracle"]))]
    pub oracle: String,
    /// Model that the oracle was trained from.
    #[schemars(extend("examples" = ["ref"]))]
    pub reference: String,
}

/// A judge at work.
pub(super) enum LoadedJudge {
    /// [`Judge::Quickstart`].
    Quickstart,
    /// [`Judge::Reward`]: oracle and reference.
    Reward(Box<[Scorer; 2]>),
}

/// What a judge says of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opinion {
    pub(super) score: f64,
    /// Of the quickstart's judge.
    pub(super) verdict: Option<Verdict>,
}

impl LoadedJudge {
    /// Opinions on `answers` (text and ids) to the prompts of the rows of `batch`, of which `rows` says one for each answer.
    pub(super) fn judge(
        &self,
        batch: &RecordBatch,
        rows: &[usize],
        texts: &[String],
        pairs: &[PairIds],
    ) -> Result<Vec<Opinion>> {
        match self {
            Self::Quickstart => {
                let prompts = messages(batch, PROMPT)?;
                let asked = |row: usize| {
                    prompts[row].iter().rev().find(|turn| role(turn) == "user").map(words).unwrap_or_default()
                };
                let verdicts = rows.iter().zip(texts).map(|(row, text)| Verdict::on(&asked(*row), text));
                Ok(verdicts.map(|verdict| Opinion { score: verdict.score(), verdict: Some(verdict) }).collect())
            }
            Self::Reward(models) => {
                let [oracle, reference] = models.each_ref().map(|model| model.logps(pairs));
                let sum = |logps: &[f32]| logps.iter().copied().map(f64::from).sum::<f64>();
                let rewards = oracle?.into_iter().zip(reference?).map(|([o, _], [r, _])| sum(&o) - sum(&r));
                Ok(rewards.map(|score| Opinion { score, verdict: None }).collect())
            }
        }
    }
}
