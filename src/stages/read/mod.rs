//! `read` — rows of a preference dataset, in one form whatever the source's.
//!
//! Text becomes `prompt`, `chosen` and `rejected` as conversations; data that is tokenized already passes through. The
//! other columns stay as they are. A format is a `Form` in its own file, registered in `form.rs`.

mod conversation;
mod form;
mod helpsteer;
mod hh;
mod ids;
mod kind;
mod llama_factory;
mod prompts;
mod ranked;
mod reader;
mod rename;
mod sepo_csv;
mod shp;
mod sql;
mod tokens;
mod trl;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Conclusion, Inputs, ModelUse, Operation, Shape, StageCost, TokenizerUse, Volume, would_be_replaced};
use crate::columns::{PROMPT_IDS, ROW_ID, messages_type, put};
use crate::error::{Error, Place, Problem, Result};
use crate::io::Dataset;
use form::{Form, Rows};
pub use reader::Reader;
pub use rename::Rename;
use sql::Filter;

/// Reads a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// A file, glob or folder (Parquet, JSON Lines, JSON, CSV, Arrow IPC), or a list of them. Local, in an object
    /// store, or on the Hugging Face hub: `hf://datasets/org/name[@revision][/file, folder or glob]`.
    #[schemars(extend("examples" = ["pairs.jsonl", "hf://datasets/Anthropic/hh-rlhf/helpful-base"]))]
    pub from: Paths,
    /// New names for source columns: `{ old: new }`. All other settings use the new names.
    #[serde(default, skip_serializing_if = "Rename::is_empty")]
    #[schemars(extend("examples" = [{"margin": "source_margin"}]))]
    pub rename: Rename,
    /// Layout of the data. By default it is detected from column names and types.
    #[serde(default)]
    #[schemars(extend("examples" = ["ultrafeedback"]))]
    pub format: Format,
    /// Names of the source columns that `pairs` and `prompts` read, if they are not `prompt`, `chosen` and `rejected`, and, in
    /// every format, of the column with the rows' ids, if it is not `row_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"chosen": "answer", "rejected": "other"}]))]
    pub columns: Option<ColumnNames>,
    /// Source columns to keep, in addition to `row_id` and the columns that the format produces. All are kept by
    /// default. Columns that are not kept are not read, and are not part of the hash that `sample` uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [["source", "score"]]))]
    pub select: Option<Vec<String>>,
    /// How a row of ranked answers (`nectar`, `nemo_rl`) becomes pairs. The default is `best_worst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["all"]))]
    pub pair_rule: Option<PairRule>,
    /// SQL expression over the source columns, with DuckDB's semantics. Rows for which it is not true are dropped.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["score > 0.5 AND source = 'helpful'"]))]
    pub filter: Option<String>,
    /// Share of the rows to take, in (0, 1]. Rows are chosen by a stable hash of their content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [0.5], "x-unit" = "share of rows"))]
    pub sample: Option<f64>,
    /// Takes one side of a train/held-out split. Rows are assigned by a stable hash of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"held_out": 0.1, "keep": "train"}]))]
    pub split: Option<Split>,
    /// Largest number of rows to take, above 0. Applied after `where`, `sample` and `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [1000], "x-unit" = "rows"))]
    pub limit: Option<u64>,
}

/// One or several paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Paths {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl Paths {
    /// As a list.
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(path) => vec![path.clone()],
            Self::Many(paths) => paths.clone(),
        }
    }
}

/// The layout of a source's columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Detected from the columns.
    #[default]
    Auto,
    /// `chosen` and `rejected`, usually with `prompt`, as text or messages (TRL's formats, and HH-RLHF transcripts).
    Pairs,
    /// `prompt` as text beside `chosen` and `rejected` as whole conversations (UltraFeedback binarized).
    Ultrafeedback,
    /// Transcripts in `chosen` and `rejected`, or in `prompt` (HH-RLHF, Dahoas).
    HhRlhf,
    /// `history`, `human_ref_A`, `human_ref_B`, `labels` (1: A is better).
    Shp,
    /// `prompt` and `answers` with ranks (1 is the best).
    Nectar,
    /// `context` and `completions` with ranks (the lowest is the best).
    NemoRl,
    /// `context`, `response1`, `response2`, `overall_preference` (below 0: response 1 is better).
    Helpsteer3,
    /// `instruction`, `chosen`, `rejected`, and optionally `input`, `system`, `history` (LLaMA-Factory).
    Alpaca,
    /// `conversations`, `chosen`, `rejected`, made of `from` and `value` (LLaMA-Factory).
    Sharegpt,
    /// Only `prompt`, as text or messages, for a `generate` stage.
    Prompts,
    /// `prompt`, `{side}_response`, `{side}_responses_ids`, `chosen_selected_args`, `rejected_unselected_args`: `top_k.csv` of
    /// the authors' released code. A `tokenize` stage tokenizes the prompts and keeps the answers' ids.
    SepoCsv,
    /// `prompt_ids`, `chosen_ids`, `rejected_ids`.
    Tokens,
}

impl Format {
    /// The word that names it in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pairs => "pairs",
            Self::Ultrafeedback => "ultrafeedback",
            Self::HhRlhf => "hh_rlhf",
            Self::Shp => "shp",
            Self::Nectar => "nectar",
            Self::NemoRl => "nemo_rl",
            Self::Helpsteer3 => "helpsteer3",
            Self::Alpaca => "alpaca",
            Self::Sharegpt => "sharegpt",
            Self::Prompts => "prompts",
            Self::SepoCsv => "sepo_csv",
            Self::Tokens => "tokens",
        }
    }
}

/// The source's names for the columns of `pairs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnNames {
    /// The prompt, as text or messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["question"]))]
    pub prompt: Option<String>,
    /// Text of a system message that is put before the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["system_prompt"]))]
    pub system: Option<String>,
    /// The preferred answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["answer"]))]
    pub chosen: Option<String>,
    /// The other answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["other"]))]
    pub rejected: Option<String>,
    /// The rows' ids, texts or whole numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["uid"]))]
    pub row_id: Option<String>,
}

impl ColumnNames {
    /// Whether a column of `pairs` has a name here.
    fn has_parts(&self) -> bool {
        [&self.prompt, &self.system, &self.chosen, &self.rejected].into_iter().any(Option::is_some)
    }

    /// The name given to the column that `pairs` calls `role`.
    fn given(&self, role: &str) -> Option<&str> {
        match role {
            "prompt" => self.prompt.as_deref(),
            "system" => self.system.as_deref(),
            "chosen" => self.chosen.as_deref(),
            "rejected" => self.rejected.as_deref(),
            _ => None,
        }
    }
}

/// Which answers of a ranked list form pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairRule {
    /// The best and the worst.
    #[default]
    BestWorst,
    /// The best, and one of the rest chosen by a hash of the row's texts.
    BestRandom,
    /// Every two answers of different ranks. A row becomes several; the positions of both answers are appended to its
    /// `row_id`.
    All,
}

/// One side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Share of the rows that is held out, in (0, 1).
    #[schemars(extend("examples" = [0.1], "x-unit" = "share of rows"))]
    pub held_out: f64,
    /// The side to read.
    #[schemars(extend("examples" = ["held_out"]))]
    pub keep: Keep,
}

/// A side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The rows that are not held out.
    Train,
    /// The held-out rows.
    HeldOut,
}

impl Read {
    /// The format that columns as in `schema` have. Prompts without answers count as `prompts` here, which `auto` never takes.
    ///
    /// # Errors
    /// Columns of no known format.
    pub fn detected(&self, schema: &Schema) -> Result<Format, Problem> {
        let answers = ["chosen", "rejected", "label", "kto_tag"];
        let prompts = || {
            let form = Form::named(Format::Prompts)?;
            let is_alone = answers.iter().all(|name| schema.field_with_name(name).is_err());
            (is_alone && form.problems(schema, &ColumnNames::default()).is_empty()).then_some(form.format)
        };
        match self.form(schema) {
            Ok(form) => Ok(form.map_or(Format::Tokens, |form| form.format)),
            Err(problem) => prompts().ok_or(problem),
        }
    }

    /// The form of a source with `schema`; none where it is tokenized already.
    fn form(&self, schema: &Schema) -> Result<Option<&'static Form>, Problem> {
        match self.format {
            Format::Tokens => Ok(None),
            Format::Auto if self.names_parts() => Ok(Form::named(Format::Pairs)),
            Format::Auto if schema.field_with_name(PROMPT_IDS).is_ok() => Ok(None),
            Format::Auto => Form::of(schema).map(Some),
            named => Ok(Form::named(named)),
        }
    }

    /// The columns that come out of a source with `schema`.
    ///
    /// # Errors
    /// A form that cannot be told or does not fit, columns that are missing, and settings that contradict one another.
    pub fn columns(&self, schema: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = self.wrong_settings();
        let misnamed = rename::problems(&self.rename, schema);
        if !misnamed.is_empty() {
            problems.extend(misnamed);
            return Err(problems);
        }
        let schema = &*rename::renamed(&self.rename, schema);
        problems.extend(self.filter(schema).and_then(Result::err));
        let form = match self.form(schema) {
            Ok(form) => form,
            Err(problem) => {
                problems.push(problem);
                return Err(problems);
            }
        };
        let ranked = form.is_some_and(|form| matches!(form.rows, Rows::Ranked(_)));
        if self.pair_rule.is_some() && !ranked {
            let format = form.map_or(Format::Tokens, |form| form.format).name();
            let message = format!("a row of format `{format}` is one pair; `pair_rule` goes with ranked answers");
            problems.push(Problem::at("pair_rule", message));
        }
        problems.extend(match form {
            None => tokens::problems(schema),
            Some(form) => form.problems(schema, &self.columns.clone().unwrap_or_default()),
        });
        problems.extend(self.id_problem(schema));
        problems.extend(self.replaced(schema, form));
        for name in self.select.iter().flatten().filter(|name| schema.field_with_name(name).is_err()) {
            let message = format!("no column `{name}`; there are {}", form::listed(schema));
            problems.push(Problem::at("select", message));
        }
        let kept = schema.fields().iter().filter(|field| self.keeps(field.name()));
        let mut out: Vec<Field> = kept.map(|field| Field::clone(field)).collect();
        match form {
            None => {
                let scored = tokens::scored(&Schema::new(out.clone()));
                tokens::fields().into_iter().chain(scored).for_each(|field| put(&mut out, field));
            }
            Some(form) => {
                form.turns().iter().for_each(|name| put(&mut out, Field::new(*name, messages_type(), false)));
                form.tokens().into_iter().flatten().flatten().for_each(|field| put(&mut out, field));
            }
        }
        let own = ids::kind(schema, self.id_column()).filter(|_| !ranked || self.pair_rule != Some(PairRule::All));
        put(&mut out, Field::new(ROW_ID, own.unwrap_or(DataType::Utf8), false));
        let schema = Schema::new_with_metadata(out, schema.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// Whether a column that `pairs` reads is given another name.
    fn names_parts(&self) -> bool {
        self.columns.as_ref().is_some_and(ColumnNames::has_parts)
    }

    /// The source's column with the rows' ids.
    fn id_column(&self) -> &str {
        self.columns.as_ref().and_then(|names| names.row_id.as_deref()).unwrap_or(ROW_ID)
    }

    /// What is wrong with a column of ids that has a name of its own.
    fn id_problem(&self, schema: &Schema) -> Option<Problem> {
        let name = self.columns.as_ref()?.row_id.as_deref()?;
        let message = match schema.field_with_name(name) {
            Err(_) => format!("no column `{name}`; there are {}", form::listed(schema)),
            Ok(field) if ids::kind(schema, name).is_none() => {
                format!("column `{name}` is {}, and ids are texts or whole numbers", field.data_type())
            }
            Ok(_) => return None,
        };
        Some(Problem::at("row_id", message).within(&["columns"]))
    }

    /// How many rows of a source repeat the id of an earlier one.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn repeated_ids(&self, dataset: &Dataset) -> Result<Conclusion> {
        let name = rename::original(&self.rename, self.id_column()).to_owned();
        ids::repeated(dataset, &name)
    }

    /// The condition on rows of a source with `schema`, and with the ids that they get.
    fn filter(&self, schema: &Schema) -> Option<Result<Filter, Problem>> {
        let text = self.filter.as_deref()?;
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| Field::clone(field)).collect();
        put(&mut fields, Field::new(ROW_ID, ids::kind(schema, self.id_column()).unwrap_or(DataType::Utf8), false));
        Some(Filter::new(text, &Schema::new(fields)))
    }

    /// Whether column `name` of the source goes on.
    fn keeps(&self, name: &str) -> bool {
        name == ROW_ID || self.select.as_ref().is_none_or(|select| select.iter().any(|selected| selected == name))
    }

    /// Columns of a source with `schema` that `form` does not read, in whose place it would put others of another type.
    fn replaced(&self, schema: &Schema, form: Option<&Form>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut found = |name: &str, expected: &str| {
            if let Ok(field) = schema.field_with_name(name) {
                problems.push(would_be_replaced("from", name, field.data_type(), expected));
            }
        };
        let own = self.id_column();
        if own != ROW_ID {
            found(ROW_ID, &format!("the ids of column `{own}`"));
        } else if ids::kind(schema, ROW_ID).is_none() {
            found(ROW_ID, "text or 64-bit integers");
        }
        let names = self.columns.clone().unwrap_or_default();
        let read: Vec<String> = form.iter().flat_map(|form| form.reads(&names)).collect();
        for field in form.and_then(Form::tokens).iter().flatten().flatten().filter(|field| self.keeps(field.name())) {
            found(field.name(), "what is made of other columns");
        }
        for name in form.map_or(&[][..], Form::turns).iter().filter(|name| self.keeps(name)) {
            let is_talk = schema.field_with_name(name).is_ok_and(|field| *field.data_type() == messages_type());
            if !is_talk && !read.iter().any(|read| read == name) {
                found(name, "a conversation that is made of other columns");
            }
        }
        problems
    }

    /// Makes the reader for a source with `schema`.
    ///
    /// # Errors
    /// As [`Self::columns`].
    pub fn open(&self, schema: &Schema) -> Result<Reader> {
        let wrong = |problem: &Problem| Error::data(Place::default(), &problem.message);
        let out = self.columns(schema).map_err(|problems| wrong(&problems[0]))?;
        let form = self.form(&rename::renamed(&self.rename, schema)).map_err(|problem| wrong(&problem))?;
        let filter = self.filter(&rename::renamed(&self.rename, schema)).transpose();
        let filter = filter.map_err(|problem| wrong(&problem))?;
        Ok(Reader { read: self.clone(), filter, form, schema: out })
    }
}

impl Operation for Read {
    fn name(&self) -> &'static str {
        "read"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        Vec::new()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        None
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Source(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(share) = self.sample.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            problems.push(Problem::at("sample", format!("sample is {share}; it must be in (0, 1]")));
        }
        if let Some(Split { held_out, .. }) = self.split.filter(|split| !(split.held_out > 0.0 && split.held_out < 1.0))
        {
            problems.push(Problem::at("split", format!("held_out is {held_out}; it must be in (0, 1)")));
        }
        if self.limit == Some(0) {
            problems.push(Problem::at("limit", "limit is 0, which takes no row; it must be above 0"));
        }
        if self.names_parts() && !matches!(self.format, Format::Auto | Format::Pairs | Format::Prompts) {
            let message = format!("format `{}` has column names of its own", self.format.name());
            problems.push(
                Problem::at("columns", message).help("`columns` goes with `format: pairs` and `format: prompts`"),
            );
        }
        problems
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        inputs.files.as_ref().map_or_else(|| Ok(Schema::empty().into()), |files| self.columns(files))
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }
}
