//! `read` — rows of a preference dataset, in one form whatever the source's.
//!
//! Text becomes `prompt`, `chosen` and `rejected` as conversations; data that is tokenized already passes through. Every
//! other column stays as it is.

mod conversation;
mod sql;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::columns::lists::from_rows;
use crate::columns::{PROMPT, PROMPT_IDS, ROW_ID, Side, list_type, messages_type, put, row_as_json, with_column};
use crate::error::{Error, Place, Problem, Result};
use crate::io::Chunk;
use conversation::{Pair, Talk};
use sql::Filter;

/// Reads a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// A file, glob or folder (Parquet, JSON Lines, Arrow IPC), or a list of them.
    pub from: Paths,
    /// What the columns hold; found from their names and types by default.
    #[serde(default)]
    pub format: Format,
    /// A SQL expression over the source's columns; rows where it is not true are left out.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Share of the rows to take, in (0, 1], chosen by a stable hash of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// One side of a split by a stable hash of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Take at most this many rows, after `where`, `sample` and `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

/// What the columns of a source hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Find out: ids where `prompt_ids` is there, else texts or conversations.
    #[default]
    Auto,
    /// `chosen` and `rejected`, and mostly `prompt`, as text or conversations (TRL, UltraFeedback, HH-RLHF).
    Pairs,
    /// `prompt_ids`, `chosen_ids`, `rejected_ids`.
    Tokens,
}

/// One side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Share of the rows that are held out, in (0, 1).
    pub held_out: f64,
    /// The side to read.
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
    fn tokens(&self, schema: &Schema) -> bool {
        match self.format {
            Format::Tokens => true,
            Format::Pairs => false,
            Format::Auto => schema.field_with_name(PROMPT_IDS).is_ok(),
        }
    }

    /// The columns that come out of a source with `schema`.
    pub fn columns(&self, schema: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut share = |field: &str, value: Option<f64>| {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
                problems.push(Problem::at(field, format!("{field} is {value}; it must be in (0, 1]")));
            }
        };
        share("sample", self.sample);
        share("split", self.split.map(|split| split.held_out));
        if let Some(Err(error)) = self.filter.as_deref().map(Filter::parse) {
            problems.push(Problem::at("where", error));
        }
        let tokens = self.tokens(schema);
        let mut out: Vec<Field> = schema.fields().iter().map(|field| Field::clone(field)).collect();
        let found = |name: &str| schema.field_with_name(name).ok();
        let names = || schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        if tokens {
            for name in [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()] {
                match found(&name) {
                    Some(field) if is_ids(field.data_type()) => {
                        put(&mut out, Field::new(name, list_type(DataType::Int32), false));
                    }
                    Some(field) => {
                        let message = format!("column `{name}` is {}, not a list of integers", field.data_type());
                        problems.push(Problem::at("from", message));
                    }
                    None => problems.push(Problem::at("from", format!("no column `{name}`; there are {}", names()))),
                }
            }
        } else {
            for name in [PROMPT, Side::Chosen.name(), Side::Rejected.name()] {
                match found(name) {
                    Some(field) if !Talk::accepts(field.data_type()) => {
                        let message = format!(
                            "column `{name}` is {}, neither text nor list<struct<role, content>>",
                            field.data_type()
                        );
                        problems.push(Problem::at("from", message));
                    }
                    None if name != PROMPT => {
                        let message = format!("no column `{name}`; there are {}", names());
                        let help = "a preference dataset has `chosen` and `rejected`, or `prompt_ids`, `chosen_ids` \
                                    and `rejected_ids`";
                        problems.push(Problem::at("from", message).help(help));
                    }
                    _ => put(&mut out, Field::new(name, messages_type(), false)),
                }
            }
        }
        if !keeps_row_id(schema) {
            put(&mut out, Field::new(ROW_ID, DataType::Utf8, false));
        }
        let schema = Schema::new_with_metadata(out, schema.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// Makes the reader for a source with `schema`.
    pub fn open(&self, schema: &Schema) -> Result<Reader> {
        let wrong = |problem: &Problem| Error::data(Place::default(), &problem.message);
        let out = self.columns(schema).map_err(|problems| wrong(&problems[0]))?;
        let filter = self.filter.as_deref().map(Filter::parse).transpose();
        let filter = filter.map_err(|message| Error::data(Place::default(), message))?;
        Ok(Reader { read: self.clone(), filter, tokens: self.tokens(schema), schema: out })
    }
}

fn is_ids(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(element) | DataType::LargeList(element) => element.data_type().is_integer(),
        _ => false,
    }
}

fn keeps_row_id(schema: &Schema) -> bool {
    let row_id = schema.field_with_name(ROW_ID);
    row_id.is_ok_and(|field| matches!(field.data_type(), DataType::Utf8 | DataType::Int64))
}

/// Rows of the source on their way into the pipeline.
pub struct Reader {
    read: Read,
    filter: Option<Filter>,
    tokens: bool,
    schema: SchemaRef,
}

impl Reader {
    /// The rows of `chunk`, which lies in `file`, that `where`, `sample` and `split` leave, and those set aside, by
    /// their place among the rows left.
    pub fn apply(&self, file: &str, chunk: Chunk) -> Result<(RecordBatch, Outcome)> {
        let wrong = |error: arrow::error::ArrowError| Error::data(Place::file(file).row(chunk.first_row), error);
        let mut batch = chunk.batch;
        if !keeps_row_id(&batch.schema()) {
            let ids = (0..batch.num_rows()).map(|row| format!("{file}:{}", chunk.first_row + row as u64));
            batch = with_column(&batch, ROW_ID, Arc::new(StringArray::from_iter_values(ids))).map_err(wrong)?;
        }
        if let Some(filter) = &self.filter {
            batch = filter_record_batch(&batch, &filter.keep(&batch)?).map_err(wrong)?;
        }
        if self.read.sample.is_some() || self.read.split.is_some() {
            let keep: BooleanArray = (0..batch.num_rows()).map(|row| Some(self.takes(&batch.slice(row, 1)))).collect();
            batch = filter_record_batch(&batch, &keep).map_err(wrong)?;
        }
        let outcome = if self.tokens { self.tokens(&batch) } else { self.pairs(&batch) }?;
        Ok((batch, outcome))
    }

    fn takes(&self, row: &RecordBatch) -> bool {
        let uniform = |salt: &str, text: &str| {
            let hash = blake3::hash(format!("{salt}\0{text}").as_bytes());
            let bytes: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
            u64::from_le_bytes(bytes) as f64 / 2f64.powi(64)
        };
        let without = |row: &RecordBatch, name: &str| {
            let mut row = row.clone();
            row.schema().index_of(name).map(|index| row.remove_column(index)).ok();
            row
        };
        let content = || row_as_json(&without(row, ROW_ID));
        let prompt = || {
            let names = [PROMPT, PROMPT_IDS];
            let column = names.iter().find_map(|name| row.schema().index_of(name).ok());
            column.and_then(|index| row.project(&[index]).ok()).map_or_else(content, |prompt| row_as_json(&prompt))
        };
        let sampled = self.read.sample.is_none_or(|share| uniform("sample", &content()) < share);
        sampled
            && self.read.split.is_none_or(|split| {
                let held_out = uniform("split", &prompt()) < split.held_out;
                held_out == (split.keep == Keep::HeldOut)
            })
    }

    fn tokens(&self, batch: &RecordBatch) -> Result<Outcome> {
        let mut batch = batch.clone();
        let mut reasons: Vec<Option<&'static str>> = vec![None; batch.num_rows()];
        let mut lists = Vec::new();
        for name in [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()] {
            let wrong = |error: arrow::error::ArrowError| Error::data(Place::column(&name), error);
            let column = batch.column_by_name(&name).expect("the schema was checked").clone();
            let nullable = DataType::List(Arc::new(Field::new("element", DataType::Int32, true)));
            let column = cast(&column, &nullable).map_err(wrong)?;
            let list = column.as_list::<i32>().clone();
            let rows: Vec<Vec<i32>> = (0..list.len())
                .map(|row| {
                    let values = list.value(row);
                    let values = values.as_primitive::<Int32Type>();
                    if values.null_count() > 0 || values.values().iter().any(|id| *id < 0) {
                        reasons[row].get_or_insert("token id is null or negative");
                    }
                    values.values().to_vec()
                })
                .collect();
            for (ids, reason) in rows.iter().zip(&mut reasons) {
                if ids.is_empty() {
                    reason.get_or_insert(if name == PROMPT_IDS { "empty prompt" } else { "empty answer" });
                }
            }
            batch = with_column(&batch, &name, from_rows::<Int32Type>(&rows)).map_err(wrong)?;
            lists.push(rows);
        }
        for (row, reason) in reasons.iter_mut().enumerate() {
            if lists[1][row] == lists[2][row] {
                reason.get_or_insert("identical answers");
            }
        }
        Outcome::sort_out(&self.in_order(&batch)?, &reasons)
    }

    fn pairs(&self, batch: &RecordBatch) -> Result<Outcome> {
        let talk = |name: &str| batch.column_by_name(name).map(|column| Talk::new(column, name)).transpose();
        let columns = [talk(PROMPT)?, talk(Side::Chosen.name())?, talk(Side::Rejected.name())?];
        let pairs = (0..batch.num_rows()).map(|row| {
            let [prompt, chosen, rejected] = columns.each_ref().map(|talk| talk.as_ref()?.cell(row));
            Pair::new(prompt, chosen, rejected)
        });
        let (mut rows, mut reasons) = (Vec::new(), Vec::new());
        for pair in pairs {
            reasons.push(pair.as_ref().err().copied());
            rows.push(pair.unwrap_or_default());
        }
        let mut batch = batch.clone();
        let columns = [
            (PROMPT, conversation::column(rows.iter().map(|pair| &pair.prompt[..]))),
            (Side::Chosen.name(), conversation::column(rows.iter().map(|pair| &pair.answers[0][..]))),
            (Side::Rejected.name(), conversation::column(rows.iter().map(|pair| &pair.answers[1][..]))),
        ];
        for (name, column) in columns {
            batch = with_column(&batch, name, column).map_err(|error| Error::data(Place::column(name), error))?;
        }
        Outcome::sort_out(&self.in_order(&batch)?, &reasons)
    }

    /// The batch's columns in the order of the stage's schema.
    fn in_order(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| batch.column_by_name(field.name()).cloned());
        let columns: Vec<ArrayRef> = columns.collect::<Option<_>>().expect("the schema was made from these columns");
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| Error::data(Place::default(), error))
    }
}
