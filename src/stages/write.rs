//! `write` — the rows as files that any engine reads: sharded by size, named as the Hugging Face hub names them, visible
//! under their final names only when all of them are whole.

mod alpaca_eval;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Place, Problem, Result};
use crate::io::{FileFormat, Location, TableWriter};

/// Writes a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The stage whose rows to take.
    pub input: String,
    /// The folder.
    pub to: String,
    /// The format of the files.
    #[serde(default)]
    pub format: Format,
    /// The first part of the file names.
    #[serde(default = "default_split")]
    pub split: String,
    /// A file is closed when it reaches this size, in MiB.
    #[serde(default = "default_shard_mib")]
    pub shard_mib: u64,
}

/// What files hold, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet with zstd, small row groups and a page index.
    #[default]
    Parquet,
    /// Arrow IPC files.
    Arrow,
    /// Answers of a `generate` stage as AlpacaEval takes them: `model_outputs.json`, whatever `split` and `shard_mib` say.
    AlpacaEval,
}

impl Format {
    fn file(self) -> FileFormat {
        match self {
            Self::Parquet => FileFormat::Parquet,
            Self::Arrow => FileFormat::Arrow,
            Self::AlpacaEval => FileFormat::Json,
        }
    }
}

impl Write {
    /// What the rows lack for the format.
    pub fn problems(&self, input: &Schema) -> Vec<Problem> {
        match self.format {
            Format::Parquet | Format::Arrow => Vec::new(),
            Format::AlpacaEval => alpaca_eval::problems(input),
        }
    }

    /// The name of file `index` of `count`.
    fn name(&self, index: usize, count: usize) -> String {
        match self.format {
            Format::AlpacaEval => "model_outputs.json".to_owned(),
            _ => format!("{}-{index:05}-of-{count:05}.{}", self.split, self.format.file().extension()),
        }
    }
}

fn default_split() -> String {
    "train".into()
}

fn default_shard_mib() -> u64 {
    500
}

/// Shards being written.
pub struct Shards {
    stage: Write,
    folder: Location,
    /// The first part of the names that unfinished files have.
    draft: String,
    schema: Option<SchemaRef>,
    open: Option<(Location, Box<dyn TableWriter>)>,
    closed: Vec<Location>,
    bytes: u64,
}

impl Shards {
    /// Begins writing into `folder`, which is the one that `stage` names.
    pub fn create(stage: &Write, folder: Location) -> Self {
        // Another worker on the same rows may write the same files; nobody's drafts get in anybody's way.
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let draft = format!(".{}-{:x}-{}", stage.split, started.as_nanos(), std::process::id());
        Self { stage: stage.clone(), folder, draft, schema: None, open: None, closed: Vec::new(), bytes: 0 }
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = match self.stage.format {
            Format::AlpacaEval => &alpaca_eval::rows(batch)?,
            Format::Parquet | Format::Arrow => batch,
        };
        let schema = self.schema.get_or_insert_with(|| with_features(&batch.schema())).clone();
        if self.open.is_none() {
            let name = format!("{}-{:05}.draft", self.draft, self.closed.len());
            let location = self.folder.join(&name);
            let writer = self.stage.format.file().create(&location, &schema)?;
            self.open = Some((location, writer));
        }
        let (_, writer) = self.open.as_mut().expect("opened just above");
        let batch = RecordBatch::try_new(schema, batch.columns().to_vec())
            .map_err(|error| Error::data(Place::file(&self.folder), error))?;
        writer.write(&batch)?;
        let is_full = writer.bytes() >= self.stage.shard_mib << 20;
        if is_full && self.stage.format != Format::AlpacaEval { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        if let Some((location, writer)) = self.open.take() {
            self.bytes += writer.finish()?;
            self.closed.push(location);
        }
        Ok(())
    }

    /// Gives the files their names in place of an earlier set of the same split; returns them and their bytes. `schema`
    /// is what an empty dataset is written with.
    pub fn finish(mut self, schema: &SchemaRef) -> Result<(Vec<String>, u64)> {
        if self.closed.is_empty() && self.open.is_none() {
            self.write(&RecordBatch::new_empty(schema.clone()))?;
        }
        self.close()?;
        let count = self.closed.len();
        let own: Vec<String> = (0..count).map(|index| self.stage.name(index, count)).collect();
        let shard = format!("{}-", self.stage.split);
        for old in self.folder.list()? {
            let name = old.name();
            // Files of the new names are replaced, so that no reader finds them missing.
            if name.starts_with(&shard) && name.contains("-of-") && !own.iter().any(|own| own == name) {
                old.delete()?;
            }
        }
        let mut names = Vec::with_capacity(count);
        for (draft, name) in self.closed.iter().zip(&own) {
            let to = self.folder.join(name);
            draft.rename(&to)?;
            names.push(to.to_string());
        }
        Ok((names, self.bytes))
    }
}

/// The schema with the `huggingface` metadata, from which `datasets` restores the types.
fn with_features(schema: &Schema) -> SchemaRef {
    let features: Map<String, Value> =
        schema.fields().iter().map(|field| (field.name().clone(), feature(field))).collect();
    let mut metadata = schema.metadata().clone();
    metadata.insert("huggingface".to_owned(), json!({"info": {"features": features}}).to_string());
    Arc::new(schema.clone().with_metadata(metadata))
}

fn feature(field: &Field) -> Value {
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    match field.data_type() {
        DataType::List(element) => json!({"feature": feature(element), "_type": "List"}),
        DataType::LargeList(element) => json!({"feature": feature(element), "_type": "LargeList"}),
        DataType::Struct(fields) => fields.iter().map(|field| (field.name().clone(), feature(field))).collect(),
        DataType::Utf8 | DataType::Utf8View => value("string"),
        DataType::LargeUtf8 => value("large_string"),
        DataType::Boolean => value("bool"),
        DataType::Null => value("null"),
        other => value(&other.to_string().to_lowercase()),
    }
}
