//! `write` — the rows as files that any engine reads: sharded by size, named as the Hugging Face hub names them, visible
//! under their final names only when all of them are whole.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Place, Result};
use crate::io::{FileFormat, Location, TableWriter};

/// Writes a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The stage whose rows to take.
    pub input: String,
    /// The folder.
    pub to: String,
    /// The file format.
    #[serde(default)]
    pub format: FileFormat,
    /// The first part of the file names.
    #[serde(default = "default_split")]
    pub split: String,
    /// A file is closed when it reaches this size, in MiB.
    #[serde(default = "default_shard_mib")]
    pub shard_mib: u64,
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
        let schema = self.schema.get_or_insert_with(|| with_features(&batch.schema())).clone();
        if self.open.is_none() {
            let name = format!("{}-{:05}.draft", self.draft, self.closed.len());
            let location = self.folder.join(&name);
            let writer = self.stage.format.create(&location, &schema)?;
            self.open = Some((location, writer));
        }
        let (_, writer) = self.open.as_mut().expect("opened just above");
        let batch = RecordBatch::try_new(schema, batch.columns().to_vec())
            .map_err(|error| Error::data(Place::file(&self.folder), error))?;
        writer.write(&batch)?;
        if writer.bytes() >= self.stage.shard_mib << 20 { self.close() } else { Ok(()) }
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
        let Write { split, format, .. } = &self.stage;
        let count = self.closed.len();
        let own = format!("-of-{count:05}.{}", format.extension());
        for old in self.folder.list()? {
            let name = old.name();
            // Files of the new names are replaced, so that no reader finds them missing.
            if name.starts_with(&format!("{split}-")) && name.contains("-of-") && !name.ends_with(&own) {
                old.delete()?;
            }
        }
        let mut names = Vec::with_capacity(count);
        for (index, draft) in self.closed.iter().enumerate() {
            let to = self.folder.join(&format!("{split}-{index:05}-of-{count:05}.{}", format.extension()));
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
