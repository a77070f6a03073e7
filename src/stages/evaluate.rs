//! `evaluate` — models compared: on held-out pairs by likelihood, and by what they answer, with a judge and win rates.

mod answers;
mod comparison;
mod judge;
mod pairs;
mod win_rate;

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::answers::Told;
use self::pairs::Sums;
use super::needs::needs_ids;
use super::positions::Reads;
use super::score::no_batch_tokens;
use super::{
    Compared, Ending, HeldOut, Inputs, Keeps, ModelCost, ModelUse, Operation, Resources, Role, Shape, Sink, StageCost,
    TokenizerUse, Volume,
};
use crate::columns::{ANSWER, ANSWER_IDS, PROMPT, messages_type};
use crate::error::{Problem, Result};
use crate::io::program;
use crate::model::{BatchTokens, Precision};
use comparison::Comparison;
pub use judge::{Command, Judge, Reward};

/// Compares models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{ "input": "held_out", "start": "ref", "models": { "sepo": "policy" } }]))]
pub struct Evaluate {
    /// Stage that provides the pairs on which models are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["held_out"]))]
    pub input: Option<String>,
    /// Models to compare, by the labels of the result table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("examples" = [{"sepo": "policy", "dpo": "oracle"}]))]
    pub models: BTreeMap<String, String>,
    /// Model that all of them were trained from. Rewards, drift and divergence are relative to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["ref"]))]
    pub start: Option<String>,
    /// `generate` stages to compare, by the labels of the result table. For labels that are also in `models`, the
    /// divergence of the model from `start` is measured on its own answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("examples" = [{"sepo": "policy_answers"}]))]
    pub answers: BTreeMap<String, String>,
    /// Judge of the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"reward": {"oracle": "oracle", "reference": "ref"}}]))]
    pub judge: Option<Judge>,
    /// Label in `answers` that all other labels are compared with for win rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["before"]))]
    pub against: Option<String>,
    /// Largest number of tokens in a forward pass.
    #[serde(default = "usual_batch_tokens")]
    #[schemars(extend("examples" = [8192], "x-unit" = "tokens"))]
    pub batch_tokens: usize,
}

fn usual_batch_tokens() -> usize {
    BatchTokens::USUAL
}

impl Evaluate {
    /// What is wrong with the settings, and what columns are missing; `columns` gives those of a stage.
    pub fn problems(&self, columns: impl Fn(&str) -> Option<SchemaRef>) -> Vec<Problem> {
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
                let help = "`judge: { command: { run: [PROGRAM] } }`, or `judge: { reward: { oracle: MODEL, reference: MODEL } }`";
                problems.push(Problem::at("against", "a win needs a judge").help(help));
            }
        }
        if self.judge.is_some() && self.answers.is_empty() {
            problems.push(Problem::at("judge", "no `answers` to judge"));
        }
        if let Some(Judge::Command(command)) = &self.judge {
            let unjudged = Self { judge: None, ..self.clone() };
            let taken = Told::before(&unjudged).metrics();
            problems.extend(command.problems(|name| ["score", "win_rate"].contains(&name) || taken.contains_key(name)));
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
        match &self.judge {
            _ if !has(ANSWER_IDS) => Some("answers; a `generate` stage writes them"),
            Some(Judge::Command(_)) if !has(ANSWER) => Some("texts of answers, which the judge reads"),
            Some(Judge::Command(_)) if !is(PROMPT, messages_type()) => Some("prompts as text, which the judge reads"),
            _ => None,
        }
    }

    /// The models that it needs: (field, name).
    pub fn models_used(&self) -> Vec<(&'static str, &str)> {
        let models = self.models.values().map(|model| ("models", model.as_str()));
        let start = self.start.iter().map(|start| ("start", start.as_str()));
        let judges = match &self.judge {
            Some(Judge::Reward(reward)) => {
                vec![("judge", reward.oracle.as_str()), ("judge", reward.reference.as_str())]
            }
            Some(Judge::Command(_)) | None => Vec::new(),
        };
        models.chain(start).chain(judges).collect()
    }
}

impl Operation for Evaluate {
    fn name(&self) -> &'static str {
        "evaluate"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        let answers = self.answers.values().map(|answers| ("answers", answers.as_str()));
        self.input.iter().map(|input| ("input", input.as_str())).chain(answers).collect()
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        let role = Role::Frozen(Precision::F32);
        self.models_used().into_iter().map(|(field, name)| ModelUse { field, name, role }).collect()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        None
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Sink(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        self.problems(|_| None)
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let problems = self.problems(|id| inputs.rows.get(id).cloned());
        let input = self.input.as_ref().map_or_else(|| Schema::empty().into(), |input| inputs.of(input));
        if problems.is_empty() { Ok(input) } else { Err(problems) }
    }

    fn fingerprint(&self) -> Value {
        match &self.judge {
            Some(Judge::Command(command)) => json!([self, program::digests(&command.run)]),
            Some(Judge::Reward(_)) | None => json!(self),
        }
    }

    fn cost(&self, volume: &Volume) -> Option<StageCost<'_>> {
        let model = |ModelUse { name, role, .. }| ModelCost { name, role, keeps: Keeps::OneLayer, work: volume.work };
        let models = self.models().into_iter().map(model).collect();
        Some(StageCost { batch_tokens: BatchTokens::AtMost(self.batch_tokens), models })
    }

    fn compared(&self) -> Option<Compared> {
        let labels: BTreeSet<&String> = self.models.keys().chain(self.answers.keys()).collect();
        let mut numbers = BTreeSet::new();
        if self.input.is_some() && !self.models.is_empty() {
            numbers.extend(Sums::default().metrics().keys().cloned());
        }
        if !self.answers.is_empty() {
            numbers.extend(Told::before(self).metrics().keys().cloned());
            numbers.extend(self.against.iter().map(|_| "win_rate".to_owned()));
        }
        Some(Compared { labels: labels.into_iter().cloned().collect(), numbers: numbers.into_iter().collect() })
    }

    fn reward(&self) -> Option<(&'static str, [&str; 2])> {
        match &self.judge {
            Some(Judge::Reward(Reward { oracle, reference })) => Some(("judge", [oracle, reference])),
            Some(Judge::Command(_)) | None => None,
        }
    }

    fn held_out(&self) -> Option<HeldOut<'_>> {
        let input = self.input.as_deref()?;
        Some(HeldOut { field: "input", input, models: self.models.values().map(String::as_str).collect() })
    }
}

impl Ending for Evaluate {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Comparison::open(self, resources)?))
    }

    fn reads(&self, field: &str) -> Option<Reads> {
        Some(if field == "answers" { Reads::Answers } else { Reads::Pairs })
    }
}
