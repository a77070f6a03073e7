//! What a pipeline can do, one file a stage, named by the word that the user types.
//!
//! A stage is a struct of settings that implements [`Operation`], in a file of its own, and a variant of [`Stage`]. Its
//! [`Shape`] says how a run treats it. A columnar stage opens a [`Transform`]: rows in, rows out, and the rows that it could
//! not use, with reasons. A chain of transforms runs as one pass over a unit of work. A stage that rows end in opens a
//! [`Sink`].

pub mod audit;
pub mod evaluate;
pub mod generate;
mod needs;
mod operation;
pub mod positions;
mod publication;
pub mod read;
pub mod report;
pub mod score;
pub mod select;
mod shape;
pub mod tokenize;
pub mod train;
pub mod write;

use std::collections::BTreeSet;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Place, Problem, Result};
use crate::io::list_element;
pub use operation::{
    Defaults, HeldOut, Inputs, Keeps, ModelCost, ModelUse, Operation, Pass, Role, StageCost, TokenizerFound,
    TokenizerOf, TokenizerUse, Volume,
};
pub use publication::Publication;
pub use shape::{Derived, Destination, Ending, Finished, Resources, Rows, Shape, Sink};

/// A stage of the pipeline file: a map with one key, which names the operation.
#[allow(clippy::large_enum_variant, reason = "a pipeline has a dozen of them")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reads preference pairs, or prompts, from files.
    Read(read::Read),
    /// Renders conversations with a chat template and tokenizes them.
    Tokenize(tokenize::Tokenize),
    /// Adds log-probabilities and token rewards, from an oracle and its reference.
    Score(score::Score),
    /// Adds key-token masks, computed from token rewards.
    Select(select::Select),
    /// Writes rows to Parquet, Arrow or AlpacaEval files.
    Write(write::Write),
    /// Trains a model. Other stages use it by the stage's id.
    Train(train::Train),
    /// Generates answers with a model.
    Generate(generate::Generate),
    /// Compares models on held-out pairs, and by their answers.
    Evaluate(evaluate::Evaluate),
    /// Compares rewards and masks with known key tokens.
    Audit(audit::Audit),
    /// A page about scored rows.
    Report(report::Report),
}

/// The operation of a stage: the one list of what the variants are.
macro_rules! operation {
    ($stage:expr) => {
        match $stage {
            Stage::Read(operation) => operation,
            Stage::Tokenize(operation) => operation,
            Stage::Score(operation) => operation,
            Stage::Select(operation) => operation,
            Stage::Write(operation) => operation,
            Stage::Train(operation) => operation,
            Stage::Generate(operation) => operation,
            Stage::Evaluate(operation) => operation,
            Stage::Audit(operation) => operation,
            Stage::Report(operation) => operation,
        }
    };
}

impl Stage {
    /// What it does.
    pub fn operation(&self) -> &dyn Operation {
        operation!(self)
    }

    /// As [`Self::operation`], to change its settings.
    pub fn operation_mut(&mut self) -> &mut dyn Operation {
        operation!(self)
    }
}

/// Columns of `input` that a stage, which makes `output` of it, would replace by others of another type: they bear names of
/// this program and hold something else.
pub fn replaced(input: &Schema, output: &Schema) -> Vec<Problem> {
    let is_kin = |found: &DataType, made: &DataType| {
        let kinds = [DataType::is_integer, DataType::is_floating, |kind: &DataType| *kind == DataType::Boolean];
        let elements = list_element(found).zip(list_element(made));
        found == made || elements.is_some_and(|(found, made)| kinds.iter().any(|is| is(found) && is(made)))
    };
    let problem = |field: &FieldRef| {
        let made = output.field_with_name(field.name()).ok()?.data_type();
        let found = field.data_type();
        (!is_kin(found, made)).then(|| would_be_replaced("input", field.name(), found, &made.to_string()))
    };
    input.fields().iter().filter_map(problem).collect()
}

/// A column of the source, `found` there, in whose place a stage would put what it makes under that name.
fn would_be_replaced(field: &str, name: &str, found: &DataType, expected: &str) -> Problem {
    let message = format!("column `{name}` is {found}; this stage would put {expected} in its place");
    let help = format!("give it another name in the `read` stage: `rename: {{ {name}: source_{name} }}`");
    Problem::at(field, message).help(help)
}

/// The table of a stage that compares several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The things, by the names that the table gives them.
    pub labels: Vec<String>,
    /// The numbers that it has of them.
    pub numbers: Vec<String>,
}

/// Numbers that a stage reports.
pub type Metrics = Map<String, Value>;

/// What a stage reports when its last row is through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conclusion {
    /// Its numbers.
    pub metrics: Metrics,
    /// What is probably wrong with its rows although nothing failed.
    pub warnings: Vec<String>,
}

impl From<Metrics> for Conclusion {
    fn from(metrics: Metrics) -> Self {
        Self { metrics, warnings: Vec::new() }
    }
}

/// A columnar stage at work.
pub trait Transform: Send {
    /// The rows of `batch` with the stage's columns, and the rows set aside.
    ///
    /// # Errors
    /// Columns of another type than the plan has; a model that fails.
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome>;

    /// What it counted since it was last asked: numbers that add up over units of work.
    fn counted(&mut self) -> Metrics {
        Metrics::new()
    }
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The rows that go on.
    pub kept: RecordBatch,
    /// Rows of the batch that came in, from 0, with the reason why they stop here.
    pub set_aside: Vec<(usize, &'static str)>,
}

impl Outcome {
    /// Keeps the rows without a reason against them.
    ///
    /// # Errors
    /// Columns that cannot be filtered.
    pub fn sort_out(batch: &RecordBatch, reasons: &[Option<&'static str>]) -> Result<Self> {
        let keep: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
        let kept = filter_record_batch(batch, &keep).map_err(|error| Error::data(Place::default(), error))?;
        let set_aside = reasons.iter().enumerate().filter_map(|(row, reason)| Some((row, (*reason)?))).collect();
        Ok(Self { kept, set_aside })
    }

    /// What became of the batch, where `next` is what became of the rows that were kept here.
    pub fn then(self, next: Self) -> Self {
        let gone: BTreeSet<usize> = self.set_aside.iter().map(|(row, _)| *row).collect();
        let went_on: Vec<usize> = (0..self.kept.num_rows() + gone.len()).filter(|row| !gone.contains(row)).collect();
        let later = next.set_aside.into_iter().map(|(row, reason)| (went_on[row], reason));
        Self { kept: next.kept, set_aside: self.set_aside.into_iter().chain(later).collect() }
    }

    /// Keeps every row.
    pub fn all(kept: RecordBatch) -> Self {
        Self { kept, set_aside: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int32Array};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn rows_are_set_aside_by_their_place_in_the_batch_that_came_in() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 2, 3, 4]));
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let first = Outcome::sort_out(&batch, &[None, Some("a"), None, None, Some("a")]).unwrap();
        let second = Outcome::sort_out(&first.kept, &[None, Some("b"), None]).unwrap();
        let both = first.then(second);
        assert_eq!(both.set_aside, [(1, "a"), (4, "a"), (2, "b")]);
        assert_eq!(both.kept.column(0).as_ref(), &Int32Array::from(vec![0, 3]));
    }

    /// Every stage with no more settings than it takes, by its name.
    fn stages() -> Value {
        json!({
            "read": { "from": "rows.parquet" },
            "tokenize": { "input": "rows", "tokenizer": "base" },
            "score": { "input": "rows", "oracle": "better", "reference": "base" },
            "select": { "input": "rows" },
            "write": { "input": "rows", "to": "out" },
            "train": { "input": "rows", "model": "base", "reference": "other", "objective": { "dpo": {} },
                "eval": { "input": "more", "every": 5 } },
            "generate": { "input": "rows", "model": "base", "tokenizer": "folder" },
            "evaluate": { "input": "rows", "start": "base", "models": { "one": "better" }, "answers": { "one": "more" },
                "judge": { "reward": { "oracle": "better", "reference": "base" } } },
            "audit": { "input": "rows", "spans": "planted" },
            "report": { "input": "rows", "to": "out" },
        })
    }

    fn stage(name: &str, settings: &Value) -> Stage {
        serde_json::from_value(json!({ name: settings })).unwrap()
    }

    #[test]
    fn stages_say_what_the_file_says() {
        let schema = schemars::schema_for!(Stage).to_value();
        let variants = schema["oneOf"].as_array().unwrap();
        let names: Vec<&str> = variants.iter().map(|variant| variant["required"][0].as_str().unwrap()).collect();
        let stages = stages();
        assert_eq!(names, stages.as_object().unwrap().keys().collect::<Vec<_>>(), "one example for each stage");
        for name in names {
            let stage = stage(name, &stages[name]);
            assert_eq!(stage.operation().name(), name);
            let written = serde_json::to_value(&stage).unwrap();
            assert_eq!(serde_json::from_value::<Stage>(written).unwrap(), stage, "{name} does not round-trip");
            for (field, used) in stage.operation().uses() {
                assert!(stages[name][field].to_string().contains(used), "{name}: {field} does not name {used}");
            }
            let named = stages[name].get("tokenizer").and_then(Value::as_str).map(TokenizerOf::Named);
            let used = stage.operation().tokenizer().map(|used| used.of);
            assert!(used == named || named.is_none() && used == Some(TokenizerOf::Rows), "{name}: {used:?}");
            assert_eq!(
                stage.operation().cost(&Volume::default()).is_some(),
                !stage.operation().models().is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn every_setting_that_matters_is_part_of_the_fingerprint() {
        let stages = stages();
        let without = [
            ("train", "memory"),
            ("train", "checkpoint"),
            ("train", "log_every"),
            ("train", "overwrite"),
            ("write", "overwrite"),
            ("report", "overwrite"),
        ];
        for (name, settings) in stages.as_object().unwrap() {
            let own = stage(name, settings);
            let written = serde_json::to_value(&own).unwrap();
            for (key, value) in written[name].as_object().unwrap() {
                // A value of the same kind, where one is easily made.
                let other = match value {
                    Value::Bool(value) => json!(!value),
                    Value::Number(_) => json!(7),
                    Value::String(_) if key == "memory" => json!("low"),
                    Value::String(_)
                        if ["input", "to", "model", "reference", "tokenizer", "spans"].contains(&key.as_str()) =>
                    {
                        json!("x")
                    }
                    Value::Object(_) if key == "checkpoint" => json!({ "every": 7 }),
                    _ => continue,
                };
                let mut changed = written[name].clone();
                changed[key] = other;
                let differs = stage(name, &changed).operation().fingerprint() != own.operation().fingerprint();
                assert_eq!(differs, !without.contains(&(name, key)), "{name}: {key}");
            }
        }
    }
}
