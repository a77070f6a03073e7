//! What a pipeline can do, one file a stage, named by the word that the user types.
//!
//! A columnar stage is a [`Transform`]: rows in, rows out, and the rows that it could not use, with reasons. A chain of
//! transforms runs as one pass over a unit of work.

pub mod audit;
pub mod evaluate;
pub mod generate;
pub mod read;
pub mod score;
pub mod select;
pub mod tokenize;
pub mod train;
pub mod write;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Place, Result};

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

    /// What the stage reports, given the sums over all its units; an error ends the run.
    pub fn conclude(&self, sums: Metrics) -> Result<Metrics> {
        match self {
            Self::Tokenize(stage) => stage.conclude(sums),
            Self::Score(stage) => Ok(stage.conclude(sums)),
            Self::Select(_) => Ok(select::conclude(sums)),
            _ => Ok(sums),
        }
    }
}

/// Numbers that a stage reports.
pub type Metrics = Map<String, Value>;

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

    /// Keeps every row.
    pub fn all(kept: RecordBatch) -> Self {
        Self { kept, set_aside: Vec::new() }
    }
}
