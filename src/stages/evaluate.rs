//! `evaluate` — models compared: on held-out pairs by likelihood, and by what they answer, with a judge and win rates.

pub mod answers;
mod judge;
pub mod pairs;
mod quickstart;
mod win_rate;

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::answers::Told;
use self::pairs::Sums;
use super::Compared;
use super::score::{default_batch_tokens, needs_ids, no_batch_tokens};
use crate::columns::{ANSWER, ANSWER_IDS, PROMPT, messages_type};
use crate::error::Problem;
pub use judge::{Judge, Reward};
pub use win_rate::{Scores, win_rates};

/// Compares models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The stage whose pairs the models are compared on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The models, by the names that the table gives them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, String>,
    /// The model that they started from: rewards, drift and divergence are taken against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Stages with answers (`generate`), by the names that the table gives them. Where `models` has the name too, the
    /// model's divergence from `start` is measured on its answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, String>,
    /// Who judges answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// The name among `answers` that all others are judged against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Most tokens in one forward pass.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
}

impl Evaluate {
    /// What is wrong with the settings, and what columns are missing; `columns` gives those of a stage.
    pub fn problems(&self, columns: impl Fn(&str) -> Option<arrow::datatypes::SchemaRef>) -> Vec<Problem> {
        let mut problems = Vec::from_iter(no_batch_tokens(self.batch_tokens));
        if self.models.is_empty() && self.answers.is_empty() {
            let help = "`models: { name: model }` with `input` and `start`, or `answers: { name: stage }`";
            problems.push(Problem::at("", "nothing to compare").help(help));
        }
        if !self.models.is_empty() && self.start.is_none() {
            problems
                .push(Problem::at("models", "models are compared with the one that they started from: name `start`"));
        }
        match &self.input {
            Some(input) if self.models.is_empty() => {
                problems.push(Problem::at("input", format!("no `models` to look at the pairs of `{input}`")));
            }
            None if !self.models.is_empty() && self.answers.is_empty() => {
                problems.push(Problem::at("models", "models are compared on pairs: name their stage as `input`"));
            }
            Some(input) => problems.extend(columns(input).iter().flat_map(|columns| needs_ids(columns))),
            None => {}
        }
        if let Some(against) = &self.against {
            let names: Vec<&str> = self.answers.keys().map(String::as_str).collect();
            if !self.answers.contains_key(against) {
                let message = format!("no answers of the name `{against}`");
                problems.push(Problem::at("against", message).help(format!("one of {}", names.join(", "))));
            }
            if self.judge.is_none() {
                let help = "`judge: quickstart`, or `judge: { reward: { oracle: MODEL, reference: MODEL } }`";
                problems.push(Problem::at("against", "a win needs a judge").help(help));
            }
        }
        if self.judge.is_some() && self.answers.is_empty() {
            problems.push(Problem::at("judge", "no `answers` to judge"));
        }
        for stage in self.answers.values() {
            let missing = columns(stage).and_then(|columns| self.lacks(&columns));
            problems.extend(missing.map(|what| Problem::at("answers", format!("stage `{stage}` has no {what}"))));
        }
        problems
    }

    /// What rows with answers lack.
    fn lacks(&self, columns: &Schema) -> Option<&'static str> {
        let has = |name: &str| columns.field_with_name(name).is_ok();
        let is = |name: &str, kind: DataType| columns.field_with_name(name).is_ok_and(|at| *at.data_type() == kind);
        match self.judge {
            _ if !has(ANSWER_IDS) => Some("answers; a `generate` stage writes them"),
            Some(Judge::Quickstart) if !has(ANSWER) => Some("texts of answers, which the judge reads"),
            Some(Judge::Quickstart) if !is(PROMPT, messages_type()) => Some("prompts as text, which the judge reads"),
            _ => None,
        }
    }

    /// What the table compares.
    pub fn compared(&self) -> Compared {
        let labels: BTreeSet<&String> = self.models.keys().chain(self.answers.keys()).collect();
        let mut numbers = BTreeSet::new();
        if self.input.is_some() && !self.models.is_empty() {
            numbers.extend(Sums::default().metrics().keys().cloned());
        }
        if !self.answers.is_empty() {
            numbers.extend(Told::before(self).metrics().keys().cloned());
            numbers.extend(self.against.iter().map(|_| "win_rate".to_owned()));
        }
        Compared { labels: labels.into_iter().cloned().collect(), numbers: numbers.into_iter().collect() }
    }

    /// The models that it needs: (field, name).
    pub fn models_used(&self) -> Vec<(&'static str, &str)> {
        let models = self.models.values().map(|model| ("models", model.as_str()));
        let start = self.start.iter().map(|start| ("start", start.as_str()));
        let judges = match &self.judge {
            Some(Judge::Reward(reward)) => {
                vec![("judge", reward.oracle.as_str()), ("judge", reward.reference.as_str())]
            }
            Some(Judge::Quickstart) | None => Vec::new(),
        };
        models.chain(start).chain(judges).collect()
    }
}
