//! `sepo inspect` — what a dataset holds: schema, provenance, counts, reward statistics; or one row token by token.

use std::fmt::Write;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use clap::Args;
use serde_json::{Map, Value, json};

use super::dataset;
use super::progress::Progress;
use super::row::Row;
use super::terminal::{plain, plain_json};
use super::tokenizer;
use super::values::Values;
use crate::columns::lists::{floats, masks};
use crate::columns::provenance::Provenance;
use crate::columns::{Side, type_name};
use crate::error::{Error, Place, Result};
use crate::io::Dataset;
use crate::report::problems;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file, glob or folder.
    path: String,
    /// Show this row, from 1: token by token if it is scored, else column by column.
    #[arg(long, value_name = "N")]
    row: Option<u64>,
    /// Folder with the tokenizer.json that made the ids, where it is no longer where it was. Without a tokenizer, ids are shown.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Sums over a list column.
#[derive(Default)]
struct Numbers {
    count: f64,
    sum: f64,
    squares: f64,
    least: f64,
    most: f64,
}

impl Numbers {
    fn add(&mut self, value: f64) {
        (self.least, self.most) = match self.count > 0.0 {
            true => (self.least.min(value), self.most.max(value)),
            false => (value, value),
        };
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    fn json(&self) -> Value {
        let mean = self.sum / self.count.max(1.0);
        let deviation = (self.squares / self.count.max(1.0) - mean * mean).max(0.0).sqrt();
        json!({"tokens": self.count, "mean": mean, "deviation": deviation, "min": self.least, "max": self.most})
    }
}

impl Inspect {
    pub(super) fn text(&self) -> Result<String> {
        let dataset = dataset::open(&self.path, &Progress::new())?;
        match self.row {
            Some(wanted) => self.row(&dataset, wanted),
            None => self.summary(&dataset),
        }
    }

    /// Row `wanted`.
    fn row(&self, dataset: &Dataset, wanted: u64) -> Result<String> {
        let mut before = 0;
        for unit in dataset.units() {
            if wanted > before + unit.rows {
                before += unit.rows;
                continue;
            }
            for chunk in dataset.read(&unit, 1024)? {
                let batch = chunk?.batch;
                let rows = batch.num_rows() as u64;
                if let Some(at) = wanted.checked_sub(before + 1).filter(|at| *at < rows) {
                    return self.shown(&batch.slice(at as usize, 1), dataset.schema(), wanted);
                }
                before += rows;
            }
        }
        Err(Error::data(Place::file(&self.path).row(wanted), format!("there are {before} rows")))
    }

    /// The only row of `batch`, which has the number `wanted` in a dataset of `schema`.
    fn shown(&self, batch: &RecordBatch, schema: &Schema, wanted: u64) -> Result<String> {
        let place = Place::file(&self.path).row(wanted);
        if !problems(schema).is_empty() {
            let values = Values::of(batch, &place)?;
            return Ok(if self.json { values.json(wanted) } else { values.text(wanted) });
        }
        let tokenizer = tokenizer::find(self.tokenizer.as_deref(), &Provenance::of(schema), &self.path)?;
        let row = Row::of(batch, tokenizer, place)?;
        Ok(if self.json { row.json(wanted) } else { row.text(wanted) })
    }

    fn summary(&self, dataset: &Dataset) -> Result<String> {
        let schema = dataset.schema().clone();
        let has = |name: &str| schema.field_with_name(name).is_ok();
        let mut found = Map::new();
        let (mut rewards, mut keys, mut rows) = (<[Numbers; 2]>::default(), <[Numbers; 2]>::default(), 0);
        for unit in dataset.units() {
            for chunk in dataset.read(&unit, 1024)? {
                let batch = chunk?.batch;
                for (index, side) in Side::BOTH.into_iter().enumerate() {
                    if has(&side.token_rewards()) {
                        let rewards_of = floats(&batch, &side.token_rewards())?;
                        rewards_of.rows().flatten().for_each(|value| rewards[index].add(f64::from(*value)));
                    }
                    if has(&side.key_mask(None)) {
                        let marked = masks(&batch, &side.key_mask(None))?;
                        marked.iter().flatten().for_each(|key| keys[index].add(f64::from(u8::from(*key))));
                    }
                }
                rows += batch.num_rows() as u64;
            }
        }
        let columns = schema.fields().iter().map(|field| (field.name().clone(), json!(type_name(field.data_type()))));
        found.insert("files".into(), json!(dataset.files().count()));
        found.insert("rows".into(), json!(rows));
        found.insert("columns".into(), columns.collect::<Map<_, _>>().into());
        found.insert("provenance".into(), json!(Provenance::of(&schema)));
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            if has(&side.token_rewards()) {
                found.insert(side.token_rewards(), rewards[index].json());
            }
            if has(&side.key_mask(None)) {
                let (tokens, key) = (keys[index].count, keys[index].sum);
                found.insert(side.key_mask(None), json!({"tokens": tokens, "key_tokens": key}));
            }
        }
        if self.json {
            return Ok(plain_json(&format!("{}\n", Value::Object(found))));
        }
        let mut out = String::new();
        for (name, value) in &found {
            match value {
                Value::Object(entries) => {
                    let _ = writeln!(out, "{name}");
                    for (key, value) in entries {
                        let value = value.as_str().map_or_else(|| plain_json(&value.to_string()), plain);
                        let _ = writeln!(out, "  {} {value}", plain(key));
                    }
                }
                value => {
                    let _ = writeln!(out, "{name} {}", plain_json(&value.to_string()));
                }
            }
        }
        Ok(out)
    }
}
