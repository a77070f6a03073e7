//! One file a stage, named by the word that stands in the YAML. What a stage declares is pure; only running touches
//! the world.
//!
//! ```text
//! read -> tokenize -> score -> select -> write        rows flow as Arrow record batches
//!                \-> train, evaluate                  ends of a flow: they read a whole dataset
//! ```

pub mod evaluate;
pub mod read;
pub mod score;
pub mod select;
pub mod tokenize;
pub mod train;
pub mod write;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Problem, Result};
use crate::io::{Dataset, Location};
use crate::model::{DeviceSpec, ModelSource};
use crate::monitor::Monitor;

pub use evaluate::Evaluate;
pub use read::Read;
pub use score::Score;
pub use select::Select;
pub use tokenize::Tokenize;
pub use train::Train;
pub use write::Write;

/// A stage as the pipeline file writes it: a map with one key, the operation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageSpec {
    /// Source dataset to canonical preference rows.
    Read(Read),
    /// Text to token ids.
    Tokenize(Tokenize),
    /// Log-probabilities and token rewards.
    Score(Score),
    /// Token rewards to key-token masks.
    Select(Select),
    /// Rows to files.
    Write(Write),
    /// A dataset and a model to a trained model.
    Train(Train),
    /// Figures about a dataset or a model.
    Evaluate(Evaluate),
}

/// What a stage declares about itself without touching the world.
pub trait Stage {
    /// The stages whose rows it reads: (field, stage id). The first is its main input.
    fn inputs(&self) -> Vec<(&'static str, &str)>;

    /// The models it uses: (field, model or train stage id).
    fn models(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }

    /// The columns it gives for the columns of its main input, or everything that is wrong with them.
    fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>>;
}

impl StageSpec {
    /// The word that names the operation in YAML.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Tokenize(_) => "tokenize",
            Self::Score(_) => "score",
            Self::Select(_) => "select",
            Self::Write(_) => "write",
            Self::Train(_) => "train",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// The declaration; `read` has none, it declares by opening its source.
    pub fn declaration(&self) -> Option<&dyn Stage> {
        match self {
            Self::Read(_) => None,
            Self::Tokenize(stage) => Some(stage),
            Self::Score(stage) => Some(stage),
            Self::Select(stage) => Some(stage),
            Self::Write(stage) => Some(stage),
            Self::Train(stage) => Some(stage),
            Self::Evaluate(stage) => Some(stage),
        }
    }

    /// The row-by-row form of a stage that can run inside a streaming pass; none for sources and ends.
    pub fn transform(&self, context: &Context) -> Option<Result<Box<dyn Transform>>> {
        match self {
            Self::Tokenize(stage) => Some(stage.start(context)),
            Self::Score(stage) => Some(stage.start(context)),
            Self::Select(stage) => Some(stage.start(context)),
            Self::Read(_) | Self::Write(_) | Self::Train(_) | Self::Evaluate(_) => None,
        }
    }
}

/// A columnar stage at work: one batch in, one batch out, rows that cannot be used set aside.
pub trait Transform {
    /// Transforms one batch (a row group, at most some thousands of rows). Output rows keep their order.
    fn apply(&mut self, batch: RecordBatch, set_aside: &mut SetAside) -> Result<RecordBatch>;

    /// What it has to report once all batches went through.
    fn finish(self: Box<Self>) -> Tally {
        Tally::default()
    }
}

/// Figures that a stage reports beside its row counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Seconds spent on loading models, which the stage's own time leaves out.
    pub load_seconds: f64,
    /// Named figures for the run's summary.
    pub metrics: Metrics,
}

/// Named figures, in the order in which people want to read them.
pub type Metrics = serde_json::Map<String, Value>;

/// What a stage may see of the run around it.
pub struct Context<'a> {
    /// The stage's id.
    pub id: &'a str,
    /// The stage's own folder in the workdir.
    pub folder: Location,
    /// Where models run.
    pub device: &'a DeviceSpec,
    /// The pipeline's seed.
    pub seed: u64,
    /// Every model of the pipeline by name: declared ones, and those that train stages have finished.
    pub models: &'a BTreeMap<String, ModelSource>,
    /// Datasets of the stages named by [`Stage::inputs`], materialised, by stage id. Empty for a [`Transform`].
    pub datasets: &'a BTreeMap<String, Dataset>,
    /// Progress out, a wish to stop in.
    pub monitor: &'a dyn Monitor,
}

impl Context<'_> {
    /// The model `name`; the planner has checked that it exists.
    pub fn model(&self, name: &str) -> Result<&ModelSource> {
        self.models.get(name).ok_or_else(|| crate::Error::stage(self.id, format!("model `{name}` is not ready")))
    }

    /// The dataset of stage `name`; the planner has checked that it exists.
    pub fn dataset(&self, name: &str) -> Result<&Dataset> {
        self.datasets.get(name).ok_or_else(|| crate::Error::stage(self.id, format!("dataset `{name}` is not ready")))
    }
}

/// Rows that a stage could not use, with the reason, on their way to `rejects/`.
#[derive(Debug, Default)]
pub struct SetAside {
    rows: Vec<Rejected>,
}

/// One row that was set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The row's `row_id`, or its place where it has none yet.
    pub row_id: String,
    /// A short fixed word to count by, for example `empty_response`.
    pub reason: &'static str,
    /// What exactly, for a person.
    pub detail: String,
    /// The row as JSON.
    pub row: String,
}

impl SetAside {
    /// Sets a row aside.
    pub fn push(&mut self, row: Rejected) {
        self.rows.push(row);
    }

    /// Sets row `index` of `batch` aside, with its `row_id` and its content.
    pub fn push_row(&mut self, batch: &RecordBatch, index: usize, reason: &'static str, detail: impl Into<String>) {
        let row = batch.slice(index, 1);
        let row_id = crate::columns::row_id(&row).unwrap_or_default();
        self.rows.push(Rejected { row_id, reason, detail: detail.into(), row: crate::columns::row_as_json(&row) });
    }

    /// Rows by reason.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.reason).or_default() += 1;
        }
        counts
    }

    /// Takes the rows out.
    pub fn take(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rows)
    }
}
