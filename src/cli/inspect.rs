//! `sepo inspect` — what a dataset holds: schema, provenance, counts, reward statistics, and the tokens of a row,
//! coloured by their rewards.

use std::fmt::Write;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use clap::Args;
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::terminal::{plain, plain_json};
use crate::columns::lists::{floats, ids, masks};
use crate::columns::provenance::Provenance;
use crate::columns::{PROMPT_IDS, Side};
use crate::error::{Error, Result};
use crate::io::{Dataset, Stores};
use crate::text::Tokenizer;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file, glob or folder.
    path: String,
    /// Show the tokens of this row, from 1, too.
    #[arg(long, value_name = "N")]
    row: Option<u64>,
    /// Folder with the tokenizer.json that `--row` needs for text; without it, ids are shown.
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
        let dataset = Dataset::open_watched(std::slice::from_ref(&self.path), &Stores::default(), &Progress::new())?;
        let schema = dataset.schema().clone();
        let has = |name: &str| schema.field_with_name(name).is_ok();
        let mut found = Map::new();
        let (mut rewards, mut row, mut shown) = ([Numbers::default(), Numbers::default()], 0, None);
        let mut keys = [Numbers::default(), Numbers::default()];
        for unit in dataset.units() {
            for chunk in dataset.read(&unit, 1024)? {
                let batch = chunk?.batch;
                for (index, side) in Side::BOTH.into_iter().enumerate() {
                    if has(&side.token_rewards()) {
                        let rows = floats(&batch, &side.token_rewards())?;
                        rows.rows().flatten().for_each(|value| rewards[index].add(f64::from(*value)));
                    }
                    if has(&side.key_mask(None)) {
                        let rows = masks(&batch, &side.key_mask(None))?;
                        rows.iter().flatten().for_each(|key| keys[index].add(f64::from(u8::from(*key))));
                    }
                }
                let wanted = self.row.and_then(|wanted| wanted.checked_sub(row + 1));
                if let Some(at) = wanted.filter(|at| *at < batch.num_rows() as u64) {
                    shown = Some(batch.slice(at as usize, 1));
                }
                row += batch.num_rows() as u64;
            }
        }
        let columns = schema.fields().iter().map(|field| (field.name().clone(), json!(field.data_type().to_string())));
        found.insert("files".into(), json!(dataset.files().count()));
        found.insert("rows".into(), json!(row));
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
                        let _ = writeln!(out, "  {} {}", token(key), plain_json(&value.to_string()));
                    }
                }
                value => {
                    let _ = writeln!(out, "{name} {}", plain_json(&value.to_string()));
                }
            }
        }
        match (self.row, shown) {
            (Some(wanted), None) => {
                let place = crate::error::Place::file(&self.path).row(wanted);
                Err(Error::data(place, format!("there are {row} rows")))
            }
            (Some(_), Some(batch)) => Ok(out + &self.tokens(&batch)?),
            (None, _) => Ok(out),
        }
    }

    fn tokens(&self, batch: &RecordBatch) -> Result<String> {
        let tokenizer = self.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
        let text = |id: i32| match &tokenizer {
            Some(tokenizer) => token(&tokenizer.token_text(id)),
            None => format!("{id} "),
        };
        let mut out = String::new();
        let prompt = ids(batch, PROMPT_IDS)?.row(0).iter().map(|id| text(*id)).collect::<String>();
        let _ = writeln!(out, "\nprompt\n{prompt}");
        for side in Side::BOTH {
            let _ = writeln!(out, "\n{} (green: high reward, red: low; underlined: key token)", side.name());
            let rewards = floats(batch, &side.token_rewards())?.row(0).to_vec();
            let mask = masks(batch, &side.key_mask(None)).ok().and_then(|mask| mask.into_iter().next());
            let most = rewards.iter().map(|reward| reward.abs()).fold(f32::MIN_POSITIVE, f32::max);
            for (token, id) in ids(batch, &side.ids())?.row(0).iter().enumerate() {
                let strength = (rewards[token].abs() / most * 200.0) as u8;
                let dull = 230 - strength;
                let (red, green) = if rewards[token] >= 0.0 { (dull, 230) } else { (230, dull) };
                let key = mask.as_ref().is_some_and(|mask| mask[token]);
                let line = if key { "4;" } else { "" };
                let _ = write!(out, "\x1b[{line}30;48;2;{red};{green};{dull}m{}\x1b[0m", text(*id));
            }
            out.push('\n');
        }
        Ok(out)
    }
}

/// A token on one line.
fn token(text: &str) -> String {
    plain(text).replace('\n', "⏎")
}
