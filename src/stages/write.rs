//! `write` — the rows as files that any engine reads: sharded by size, named as the Hugging Face hub names them, visible
//! under their final names only when all of them are whole.

mod alpaca_eval;
mod axolotl;
pub mod card;
mod features;
mod format;
mod labels;
mod llama_factory;
mod sepo_csv;
mod tokens;
mod trl;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write as _;
use std::ops::Not;

use super::publication::problems as publication_problems;
use super::{
    Destination, Ending, Finished, Inputs, ModelUse, Operation, Publication, Resources, Shape, Sink, StageCost,
    TokenizerFound, TokenizerOf, TokenizerUse, Volume,
};
use crate::columns::provenance::{self, Provenance};
use crate::error::{Error, Place, Problem, Result};
use crate::io::hub::{Address, Kind, Visibility};
use crate::io::{Location, TableWriter, Written};
use features::with_features;
pub use format::Format;
use tokens::Words;

/// Writes a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Stage that provides the rows.
    #[schemars(extend("examples" = ["keyed"]))]
    pub input: String,
    /// Output folder, a path or a URL; or a dataset of the Hugging Face hub, `hf://datasets/org/name[@branch][/folder]`, into
    /// which the files go in one commit, with a card (docs/hub.md).
    #[schemars(extend("examples" = ["runs/first/scored", "hf://datasets/org/scored"]))]
    pub to: String,
    /// Makes the dataset of the hub, or its branch, if it does not exist, for its owner alone or for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["private"]))]
    pub create: Option<Visibility>,
    /// File format.
    #[serde(default)]
    #[schemars(extend("examples" = ["arrow"]))]
    pub format: Format,
    /// First part of the file names: `train` makes `train-00000-of-00001.parquet`.
    #[serde(default = "default_split")]
    #[schemars(extend("examples" = ["test"]))]
    pub split: String,
    /// Further key mask that `llama_factory`, `axolotl` and `sepo_csv` take, by its name in `select`; by default the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["random"]))]
    pub mask: Option<String>,
    /// Write the tokens of answers as text, too: `{side}_tokens`, the text that each token adds, and `{side}_char_spans`, the
    /// characters of the answer's first message that it covers.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub tokens: bool,
    /// For `tokens`, the model whose tokenizer to use, or a folder with tokenizer.json; by default the tokenizer that made the
    /// rows' ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["oracle"]))]
    pub tokenizer: Option<String>,
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

impl Write {
    /// What is wrong with its settings, and what the rows lack for the format.
    pub fn problems(&self, input: &Schema) -> Vec<Problem> {
        let mut problems = self.format.problems(input, self.mask.as_deref());
        problems.extend(self.wrong_settings());
        problems
    }

    /// Whether the stage may make a file `name`, with some number of shards.
    pub fn may_make(&self, name: &str) -> bool {
        self.format.may_make(&self.split, name)
    }

    /// The name of file `index` of `count`.
    pub fn name(&self, index: usize, count: usize) -> String {
        self.format.name(&self.split, index, count)
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
    /// The whole file at `draft`, which is to be called `name`.
    pub fn new(draft: Location, name: String, written: Written) -> Self {
        Self { draft: Some(draft), name, written }
    }

    /// Where the whole file lies, until it is published.
    pub fn draft(&self) -> Option<&Location> {
        self.draft.as_ref()
    }

    /// Moves it to `to`, in place of a file that may be there.
    ///
    /// # Errors
    /// A store that fails.
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
    ///
    /// # Errors
    /// A store that fails; columns that the format cannot hold.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = self.stage.format.rows(batch, self.stage.mask.as_deref())?;
        let schema = self.schema.get_or_insert_with(|| file_schema(&batch.schema(), &self.stage.to)).clone();
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
        if is_full && !self.stage.format.is_one_file() { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        if let Some((location, writer)) = self.open.take() {
            let written = writer.finish()?;
            self.closed.push(Shard::new(location, String::new(), written));
        }
        Ok(())
    }

    /// The files, not yet under their names, and their columns. `schema` is what an empty dataset is written with.
    ///
    /// # Errors
    /// A store that fails.
    pub fn finish(mut self, schema: &SchemaRef) -> Result<(Vec<Shard>, SchemaRef)> {
        if self.closed.is_empty() && self.open.is_none() {
            self.write(&RecordBatch::new_empty(schema.clone()))?;
        }
        self.close()?;
        let (count, mut beside) = (self.closed.len(), Vec::new());
        for (index, shard) in self.closed.iter_mut().enumerate() {
            shard.name = self.stage.name(index, count);
        }
        let files: Vec<(&str, &Written)> =
            self.closed.iter().map(|shard| (shard.name.as_str(), &shard.written)).collect();
        for (name, content) in self.stage.format.beside(&self.stage.split, &files) {
            let draft = self.folder.join("draft").draft();
            let mut upload = draft.upload()?;
            let sent = upload.write_all(content.to_string().as_bytes());
            sent.map_err(|error| draft.cause(Error::data(Place::file(&draft), error)))?;
            let written = upload.finish()?;
            beside.push(Shard::new(draft, name.to_owned(), written));
        }
        self.closed.extend(beside);
        let schema = self.schema.expect("a batch was written, if only an empty one");
        Ok((self.closed, schema))
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
        let of = self.tokenizer.as_deref().map_or(TokenizerOf::Rows, TokenizerOf::Named);
        self.tokens.then_some(TokenizerUse { of, template: None })
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Sink(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let mut problems = publication_problems(Some(&self.to), self.create, Kind::Dataset);
        let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        if !self.split.starts_with(char::is_alphanumeric) || !self.split.chars().all(fits) {
            let message =
                format!("`{}` begins no file name; a split has only letters, digits, `_` and `.`", self.split);
            problems.push(Problem::at("split", message));
        }
        if self.shard_mib == 0 {
            problems.push(Problem::at("shard_mib", "shard_mib is 0; it must be 1 or more"));
        }
        if self.tokens && !self.format.keeps_columns() {
            problems.push(Problem::at("tokens", "the format has no place for tokens").help("leave `tokens` out"));
        }
        problems
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let input = inputs.of(&self.input);
        let mut problems = self.problems(&input);
        if !self.tokens {
            return if problems.is_empty() { Ok(input) } else { Err(problems) };
        }
        if inputs.tokenizer == TokenizerFound::Nowhere && self.format.keeps_columns() {
            let message = "no stage above says which tokenizer made the ids";
            problems.push(Problem::at("tokens", message).help("name it: `tokenizer: MODEL` or `tokenizer: FOLDER`"));
        }
        let columns = tokens::columns_of(&input).map_err(|more| problems.extend(more));
        columns.ok().filter(|_| problems.is_empty()).ok_or(problems)
    }

    fn fingerprint(&self) -> Value {
        json!(Self { overwrite: false, create: None, ..self.clone() })
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }

    fn publication(&self) -> Option<Publication> {
        Publication::of(&self.to, self.create, self.overwrite)
    }
}

impl Ending for Write {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        let shards = Shards::create(self, resources.locate(&self.to)?);
        let tokenizer = if self.tokens { resources.tokenizer()? } else { None };
        Ok(Box::new(Writing { shards, words: tokenizer.map(Words::new), columns: resources.columns() }))
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

    fn part_of_card(&self, columns: &Schema) -> card::Part {
        let extension = self.format.file().extension();
        card::Part {
            split: self.split.clone(),
            files: self.format.is_of_datasets().then(|| format!("{}-*.{extension}", self.split)),
            features: card::features(columns),
            ..card::Part::default()
        }
    }
}

/// The schema of files in `to` with the columns of `schema`.
fn file_schema(schema: &SchemaRef, to: &str) -> SchemaRef {
    let is_on_hub = matches!(Address::parse(to), Ok(Some(_))) && schema.metadata().contains_key(provenance::KEY);
    if !is_on_hub {
        return with_features(schema);
    }
    // A folder of this machine means nothing there.
    let provenance = Provenance { tokenizer_folder: None, ..Provenance::of(schema) };
    with_features(&provenance.stamp(schema))
}

struct Writing {
    shards: Shards,
    /// Writes out tokens, if they are wanted.
    words: Option<Words>,
    columns: SchemaRef,
}

impl Sink for Writing {
    fn take(&mut self, _input: usize, batch: &RecordBatch) -> Result<()> {
        match &self.words {
            Some(words) => self.shards.write(&words.add(batch)?),
            None => self.shards.write(batch),
        }
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let (files, columns) = self.shards.finish(&self.columns)?;
        Ok(Finished { files, columns: Some(columns), ..Finished::default() })
    }
}
