//! The shapes of stages, which are all that a run tells apart, and what a stage of each shape does for it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use super::positions::Reads;
use super::read::Read;
use super::train::Train;
use super::write::Shard;
use super::write::card::Part;
use super::{Metrics, Transform};
use crate::error::Result;
use crate::io::Location;
use crate::model::{BatchTokens, DeviceSpec, ModelSource};
use crate::report::SetAside;
use crate::text::Tokenizer;

/// How a run treats a stage.
pub enum Shape<'a> {
    /// Its rows come from files, which every pass reads again.
    Source(&'a Read),
    /// Its columns follow from its rows, and every pass derives them again.
    Inline(Arc<dyn Derived>),
    /// Its rows are kept in parts.
    Materialised(&'a dyn Rows),
    /// It trains a model on all rows.
    Training(&'a Train),
    /// Rows end in it.
    Sink(&'a dyn Ending),
}

/// A stage that derives columns.
pub trait Derived: Send + Sync {
    /// Makes the transform.
    fn open(&self) -> Box<dyn Transform>;
}

/// A stage that makes rows which are kept.
pub trait Rows {
    /// Loads what the transform needs.
    ///
    /// # Errors
    /// Models and tokenizers that cannot be loaded or do not fit.
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Transform>>;
}

/// A stage that rows end in.
pub trait Ending {
    /// Loads what the sink needs.
    ///
    /// # Errors
    /// Models that cannot be loaded or do not fit.
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Sink>>;

    /// What its models read of the rows of the input in `field`: rows that are too long for them are set aside.
    fn reads(&self, _field: &str) -> Option<Reads> {
        None
    }

    /// Where it writes files, if it does.
    fn destination(&self) -> Option<&dyn Destination> {
        None
    }
}

/// What a run gives to a stage that it opens.
pub trait Resources {
    /// The model called `name`, which is one of [`super::Operation::models`].
    ///
    /// # Errors
    /// A model that is not there.
    fn model(&self, name: &str) -> Result<ModelSource>;

    /// The tokenizer of [`super::Operation::tokenizer`]; none where the stage names none and its model has none.
    ///
    /// # Errors
    /// A tokenizer that cannot be read.
    fn tokenizer(&self) -> Result<Option<Arc<Tokenizer>>>;

    /// Where models run.
    fn device(&self) -> DeviceSpec;

    /// The tokens of a pass of the stage's models on that device, as `wanted`.
    ///
    /// # Errors
    /// A model whose size is not known.
    fn batch_tokens(&self, wanted: BatchTokens) -> Result<usize>;

    /// Positions of the stage's model that has the fewest; none where no model has a limit.
    ///
    /// # Errors
    /// A config.json that cannot be read.
    fn positions(&self) -> Result<Option<usize>>;

    /// The columns of the stage's rows, or of its input where it has none.
    fn columns(&self) -> SchemaRef;

    /// The rows that the stages before this one set aside; none where that is not known before its rows come.
    fn set_aside(&self) -> Option<Vec<SetAside>>;

    /// The place that `path`, a path or a URL of the pipeline file, names. For an address of the hub, where files are made
    /// before they are uploaded.
    ///
    /// # Errors
    /// A path that names no place.
    fn locate(&self, path: &str) -> Result<Location>;
}

/// A stage at work that rows end in.
pub trait Sink {
    /// Takes rows of an input, which counts as in [`super::Operation::inputs`].
    ///
    /// # Errors
    /// Rows that cannot be used, a store that fails.
    fn take(&mut self, input: usize, batch: &RecordBatch) -> Result<()>;

    /// What it made of all rows.
    ///
    /// # Errors
    /// As for [`Self::take`].
    fn finish(self: Box<Self>) -> Result<Finished>;
}

/// What a sink made of its rows.
#[derive(Debug, Default)]
pub struct Finished {
    /// Numbers.
    pub metrics: Metrics,
    /// What is probably wrong with the rows although nothing failed.
    pub warnings: Vec<String>,
    /// Files that are whole and do not have their names yet: the run puts them into the folder of [`Ending::destination`].
    pub files: Vec<Shard>,
    /// The columns of files of rows.
    pub columns: Option<SchemaRef>,
}

/// Where a stage writes files, and how it names them.
pub trait Destination {
    /// Their folder, as the pipeline file names it.
    fn folder(&self) -> &str;

    /// Whether files of other makers may be replaced.
    fn overwrites(&self) -> bool;

    /// The name of file `index` of `count`.
    fn name(&self, index: usize, count: usize) -> String;

    /// Whether the stage may make a file `name`, with some number of files.
    fn may_make(&self, name: &str) -> bool;

    /// What the card of a dataset says of files with these columns, as far as the stage's settings tell it.
    fn part_of_card(&self, _columns: &Schema) -> Part {
        Part::default()
    }
}
