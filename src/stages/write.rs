//! `write` — the rows as files that any engine reads: sharded by size, named as the Hugging Face hub names them, visible
//! under their final names only when all of them are whole.

mod alpaca_eval;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::{
    Destination, Ending, Finished, Inputs, ModelUse, Operation, Resources, Shape, Sink, StageCost, TokenizerUse, Volume,
};
use crate::error::{Error, Place, Problem, Result};
use crate::io::{FileFormat, Location, TableWriter, Written};

/// Writes a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Stage that provides the rows.
    #[schemars(extend("examples" = ["keyed"]))]
    pub input: String,
    /// Output folder, a path or a URL.
    #[schemars(extend("examples" = ["runs/first/scored"]))]
    pub to: String,
    /// File format.
    #[serde(default)]
    #[schemars(extend("examples" = ["arrow"]))]
    pub format: Format,
    /// First part of the file names: `train` makes `train-00000-of-00001.parquet`.
    #[serde(default = "default_split")]
    #[schemars(extend("examples" = ["test"]))]
    pub split: String,
    /// A file is closed once it reaches this size.
    #[serde(default = "default_shard_mib")]
    #[schemars(extend("examples" = [256], "x-unit" = "MiB"))]
    pub shard_mib: u64,
    /// Allow an output folder that contains other files, and replace those with the same names. By default such a
    /// folder is refused. Files that the stage itself wrote earlier are always replaced.
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub overwrite: bool,
}

/// File formats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet with zstd, small row groups and a page index.
    #[default]
    Parquet,
    /// Arrow IPC files.
    Arrow,
    /// Answers of a `generate` stage in AlpacaEval's format, in `model_outputs.json`. `split` and `shard_mib` have no
    /// effect.
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
    /// What is wrong with its settings, and what the rows lack for the format.
    pub fn problems(&self, input: &Schema) -> Vec<Problem> {
        let mut problems = match self.format {
            Format::Parquet | Format::Arrow => Vec::new(),
            Format::AlpacaEval => alpaca_eval::problems(input),
        };
        let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        if !self.split.starts_with(char::is_alphanumeric) || !self.split.chars().all(fits) {
            let message =
                format!("`{}` begins no file name; a split has only letters, digits, `_` and `.`", self.split);
            problems.push(Problem::at("split", message));
        }
        if self.shard_mib == 0 {
            problems.push(Problem::at("shard_mib", "shard_mib is 0; it must be 1 or more"));
        }
        problems
    }

    /// Whether the stage may make a file `name`, with some number of shards.
    pub fn may_make(&self, name: &str) -> bool {
        let numbers = || {
            let (index, count) =
                name.strip_prefix(&format!("{}-", self.split))?.split_once('.')?.0.split_once("-of-")?;
            Some((index.parse().ok()?, count.parse().ok()?))
        };
        self.format == Format::AlpacaEval && name == self.name(0, 1)
            || numbers().is_some_and(|(index, count)| name == self.name(index, count))
    }

    /// The name of file `index` of `count`.
    pub fn name(&self, index: usize, count: usize) -> String {
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

/// The footer's key that `datasets` looks at.
const FEATURES: &str = "huggingface";

/// Shards being written.
pub struct Shards {
    stage: Write,
    folder: Location,
    schema: Option<SchemaRef>,
    open: Option<(Location, Box<dyn TableWriter>)>,
    closed: Vec<Shard>,
}

/// A whole file under the name of a draft. Dropped before it is published, it goes.
#[derive(Debug)]
pub struct Shard {
    draft: Option<Location>,
    /// Its final name.
    pub name: String,
    /// Its size and digest.
    pub written: Written,
}

impl Shard {
    /// Moves it to `to`, in place of a file that may be there.
    pub fn publish(&mut self, to: &Location) -> Result<()> {
        if let Some(draft) = &self.draft {
            draft.rename(to)?;
        }
        self.draft = None;
        Ok(())
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // What cannot be removed now has the mark of this process, by which it is found later.
            drop(draft.delete());
        }
    }
}

impl Shards {
    /// Begins writing into `folder`, which is the one that `stage` names.
    pub fn create(stage: &Write, folder: Location) -> Self {
        Self { stage: stage.clone(), folder, schema: None, open: None, closed: Vec::new() }
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = match self.stage.format {
            Format::AlpacaEval => &alpaca_eval::rows(batch)?,
            Format::Parquet | Format::Arrow => batch,
        };
        let schema = self.schema.get_or_insert_with(|| with_features(&batch.schema())).clone();
        if self.open.is_none() {
            let location = self.folder.join("draft").draft();
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
            let written = writer.finish()?;
            self.closed.push(Shard { draft: Some(location), name: String::new(), written });
        }
        Ok(())
    }

    /// The files, not yet under their names. `schema` is what an empty dataset is written with.
    pub fn finish(mut self, schema: &SchemaRef) -> Result<Vec<Shard>> {
        if self.closed.is_empty() && self.open.is_none() {
            self.write(&RecordBatch::new_empty(schema.clone()))?;
        }
        self.close()?;
        let count = self.closed.len();
        for (index, shard) in self.closed.iter_mut().enumerate() {
            shard.name = self.stage.name(index, count);
        }
        Ok(self.closed)
    }
}

/// The schema with the `huggingface` metadata, from which `datasets` restores the types; without it where a type has no
/// name there.
fn with_features(schema: &Schema) -> SchemaRef {
    let feature = |field: &FieldRef| Some((field.name().clone(), feature(field.data_type())?));
    let features: Option<Map<String, Value>> = schema.fields().iter().map(feature).collect();
    let mut metadata = schema.metadata().clone();
    match features {
        Some(features) => metadata.insert(FEATURES.to_owned(), json!({"info": {"features": features}}).to_string()),
        None => metadata.remove(FEATURES),
    };
    Arc::new(schema.clone().with_metadata(metadata))
}

/// What `datasets` calls a type: the names of `datasets.features.features.string_to_arrow`.
fn feature(data_type: &DataType) -> Option<Value> {
    let list = |element: &FieldRef, name: &str| Some(json!({"feature": feature(element.data_type())?, "_type": name}));
    let dtype = match data_type {
        DataType::List(element) => return list(element, "List"),
        DataType::LargeList(element) => return list(element, "LargeList"),
        DataType::FixedSizeList(element, length) => {
            return Some(json!({"feature": feature(element.data_type())?, "length": length, "_type": "List"}));
        }
        DataType::Struct(fields) => {
            return fields.iter().map(|field| Some((field.name().clone(), feature(field.data_type())?))).collect();
        }
        // A way to store values, which readers undo.
        DataType::Dictionary(_, values) => return feature(values),
        DataType::Utf8 | DataType::Utf8View => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Binary | DataType::BinaryView => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Null => "null".to_owned(),
        DataType::Date32 => "date32".to_owned(),
        DataType::Date64 => "date64".to_owned(),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit_name(*unit)),
        DataType::Time32(unit) => format!("time32[{}]", unit_name(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        number if number.is_integer() || number.is_floating() => number.to_string().to_lowercase(),
        _ => return None,
    };
    Some(json!({"dtype": dtype, "_type": "Value"}))
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

impl Operation for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        vec![("input", &self.input)]
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        Vec::new()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        None
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Sink(self)
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let input = inputs.of(&self.input);
        let problems = self.problems(&input);
        if problems.is_empty() { Ok(input) } else { Err(problems) }
    }

    fn fingerprint(&self) -> Value {
        json!(Self { overwrite: false, ..self.clone() })
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }
}

impl Ending for Write {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        let shards = Shards::create(self, resources.locate(&self.to)?);
        Ok(Box::new(Writing { shards, columns: resources.columns() }))
    }

    fn destination(&self) -> Option<&dyn Destination> {
        Some(self)
    }
}

impl Destination for Write {
    fn folder(&self) -> &str {
        &self.to
    }

    fn overwrites(&self) -> bool {
        self.overwrite
    }

    fn name(&self, index: usize, count: usize) -> String {
        self.name(index, count)
    }

    fn may_make(&self, name: &str) -> bool {
        self.may_make(name)
    }
}

struct Writing {
    shards: Shards,
    columns: SchemaRef,
}

impl Sink for Writing {
    fn take(&mut self, _input: usize, batch: &RecordBatch) -> Result<()> {
        self.shards.write(batch)
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        Ok(Finished { files: self.shards.finish(&self.columns)?, ..Finished::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    #[test]
    fn every_type_has_the_name_that_datasets_gives_it() {
        let named = |data_type: DataType| feature(&data_type).map(|value| value["dtype"].as_str().unwrap().to_owned());
        let text = || Box::new(DataType::Utf8);
        let micro = TimeUnit::Microsecond;
        for (data_type, expected) in [
            (DataType::Int64, "int64"),
            (DataType::UInt8, "uint8"),
            (DataType::Float16, "float16"),
            (DataType::Float64, "float64"),
            (DataType::Dictionary(Box::new(DataType::Int32), text()), "string"),
            (DataType::Utf8View, "string"),
            (DataType::Timestamp(micro, None), "timestamp[us]"),
            (DataType::Timestamp(micro, Some("UTC".into())), "timestamp[us, tz=UTC]"),
            (DataType::Time32(TimeUnit::Second), "time32[s]"),
            (DataType::Decimal128(10, 2), "decimal128(10, 2)"),
        ] {
            assert_eq!(named(data_type.clone()).as_deref(), Some(expected), "{data_type}");
        }
        // Without a name for one, none is claimed.
        let odd = Field::new("odd", DataType::Interval(arrow::datatypes::IntervalUnit::DayTime), true);
        assert!(!with_features(&Schema::new(vec![odd])).metadata().contains_key(FEATURES));
    }
}
