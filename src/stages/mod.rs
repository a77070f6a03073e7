//! What a pipeline can do, one file a stage, named by the word that the user types.
//!
//! A columnar stage is a [`Transform`]: rows in, rows out, and the rows that it could not use, with reasons. A chain of
//! transforms runs as one pass over a unit of work.

pub mod audit;
pub mod evaluate;
pub mod generate;
pub mod positions;
pub mod read;
pub mod score;
pub mod select;
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

/// A stage of the pipeline file: a map with one key, which names the operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Rows of a preference dataset.
    Read(read::Read),
    /// Conversations to token ids.
    Tokenize(tokenize::Tokenize),
    /// Token rewards from an oracle and its reference.
    Score(score::Score),
    /// Key-token masks from token rewards.
    Select(select::Select),
    /// Files that any engine reads.
    Write(write::Write),
    /// A model trained on the rows.
    Train(Box<train::Train>),
    /// What a model answers.
    Generate(Box<generate::Generate>),
    /// Models compared on held-out pairs, and by their answers.
    Evaluate(Box<evaluate::Evaluate>),
    /// Rewards and masks compared with known answers.
    Audit(audit::Audit),
}

impl Stage {
    /// The word that names it in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Tokenize(_) => "tokenize",
            Self::Score(_) => "score",
            Self::Select(_) => "select",
            Self::Write(_) => "write",
            Self::Train(_) => "train",
            Self::Generate(_) => "generate",
            Self::Evaluate(_) => "evaluate",
            Self::Audit(_) => "audit",
        }
    }

    /// The stages whose rows it takes: (field, id).
    pub fn inputs(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Read(_) => Vec::new(),
            Self::Tokenize(stage) => vec![("input", &stage.input)],
            Self::Score(stage) => vec![("input", &stage.input)],
            Self::Select(stage) => vec![("input", &stage.input)],
            Self::Write(stage) => vec![("input", &stage.input)],
            Self::Generate(stage) => vec![("input", &stage.input)],
            Self::Evaluate(stage) => {
                let answers = stage.answers.values().map(|answers| ("answers", answers.as_str()));
                stage.input.iter().map(|input| ("input", input.as_str())).chain(answers).collect()
            }
            Self::Audit(stage) => vec![("input", &stage.input)],
            Self::Train(stage) => {
                let eval = stage.eval.iter().map(|eval| ("eval", eval.input.as_str()));
                std::iter::once(("input", stage.input.as_str())).chain(eval).collect()
            }
        }
    }

    /// The models that it uses: (field, name under `models:` or id of a `train` stage).
    pub fn models(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Read(_) | Self::Tokenize(_) | Self::Select(_) | Self::Write(_) | Self::Audit(_) => Vec::new(),
            Self::Score(stage) => {
                let oracle = stage.oracle.iter().map(|oracle| ("oracle", oracle.as_str()));
                oracle.chain([("reference", stage.reference.as_str())]).collect()
            }
            Self::Train(stage) => {
                let reference = stage.reference.iter().map(|reference| ("reference", reference.as_str()));
                reference.chain([("model", stage.model.as_str())]).collect()
            }
            Self::Generate(stage) => vec![("model", &stage.model)],
            Self::Evaluate(stage) => stage.models_used(),
        }
    }

    /// The template that makes texts of its conversations.
    pub fn template(&self) -> Option<&tokenize::TemplateChoice> {
        match self {
            Self::Tokenize(stage) => Some(&stage.template),
            Self::Generate(stage) => Some(&stage.template),
            _ => None,
        }
    }

    /// What its table compares; nothing for a stage that has none.
    pub fn compared(&self) -> Option<Compared> {
        match self {
            Self::Evaluate(stage) => Some(stage.compared()),
            Self::Audit(_) => Some(audit::compared()),
            _ => None,
        }
    }

    /// What the stage reports, given the sums over all its units; an error ends the run.
    pub fn conclude(&self, sums: Metrics) -> Result<Conclusion> {
        match self {
            Self::Tokenize(stage) => stage.conclude(sums).map(Conclusion::from),
            Self::Score(stage) => stage.conclude(sums),
            Self::Select(stage) => Ok(stage.conclude(sums)),
            _ => Ok(sums.into()),
        }
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
}
