//! What files hold: every format of `write` with the columns that it makes of the rows, the names of its files and the
//! files beside them.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{alpaca_eval, axolotl, llama_factory, sepo_csv, trl};
use crate::columns::Side;
use crate::error::{Problem, Result};
use crate::io::{FileFormat, Written};

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
    /// A folder for LLaMA-Factory's `tokenized_path`: token ids of both answers, with labels of -100 except on key tokens.
    LlamaFactory,
    /// Conversations for `trl dpo`: `prompt`, `chosen` and `rejected`, without masks.
    Trl,
    /// The chosen answer for axolotl's pre-tokenized datasets: token ids, with labels of -100 except on key tokens.
    Axolotl,
    /// `top_k.csv` of the authors' released code, whatever `split` and `shard_mib` say: prompts and answers of one message
    /// each, and the numbers of the key tokens, which `rule: official` selects.
    SepoCsv,
}

impl Format {
    /// The format of each file.
    pub(super) fn file(self) -> FileFormat {
        match self {
            Self::Parquet | Self::Trl | Self::Axolotl => FileFormat::Parquet,
            Self::Arrow => FileFormat::Arrow,
            Self::AlpacaEval => FileFormat::Json,
            Self::LlamaFactory => FileFormat::ArrowStream,
            Self::SepoCsv => FileFormat::Csv,
        }
    }

    /// Whether all rows are in one file.
    pub(super) fn is_one_file(self) -> bool {
        matches!(self, Self::AlpacaEval | Self::SepoCsv)
    }

    /// Whether the files hold all columns of the rows.
    pub(super) fn keeps_columns(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }

    /// Whether `datasets` reads the files as they are.
    pub(super) fn is_of_datasets(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow | Self::Trl | Self::Axolotl)
    }

    /// Whether the files hold the key tokens of one mask.
    fn takes_a_mask(self) -> bool {
        matches!(self, Self::LlamaFactory | Self::Axolotl | Self::SepoCsv)
    }

    /// What rows of `input` lack; `mask` names a further key mask.
    pub(super) fn problems(self, input: &Schema, mask: Option<&str>) -> Vec<Problem> {
        if mask.is_some() && !self.takes_a_mask() {
            return vec![Problem::at("mask", "only `llama_factory`, `axolotl` and `sepo_csv` take a mask")];
        }
        match self {
            Self::Parquet | Self::Arrow => Vec::new(),
            Self::AlpacaEval => alpaca_eval::problems(input),
            Self::LlamaFactory => labels_problems(input, mask, &Side::BOTH),
            Self::Axolotl => labels_problems(input, mask, &[Side::Chosen]),
            Self::Trl => trl::problems(input),
            Self::SepoCsv => {
                let lacking = labels_problems(input, mask, &Side::BOTH);
                lacking.into_iter().chain(sepo_csv::problems(input)).collect()
            }
        }
    }

    /// The columns that the files hold of the rows of `batch`.
    pub(super) fn rows<'a>(self, batch: &'a RecordBatch, mask: Option<&str>) -> Result<Cow<'a, RecordBatch>> {
        match self {
            Self::Parquet | Self::Arrow => Ok(Cow::Borrowed(batch)),
            Self::AlpacaEval => alpaca_eval::rows(batch).map(Cow::Owned),
            Self::LlamaFactory => llama_factory::rows(batch, mask).map(Cow::Owned),
            Self::Trl => trl::rows(batch).map(Cow::Owned),
            Self::Axolotl => axolotl::rows(batch, mask).map(Cow::Owned),
            Self::SepoCsv => sepo_csv::rows(batch, mask).map(Cow::Owned),
        }
    }

    /// The name of file `index` of `count`, of the split `split`.
    pub(super) fn name(self, split: &str, index: usize, count: usize) -> String {
        let split = match self {
            Self::AlpacaEval => return "model_outputs.json".to_owned(),
            Self::SepoCsv => return sepo_csv::NAME.to_owned(),
            Self::LlamaFactory => "data",
            _ => split,
        };
        format!("{split}-{index:05}-of-{count:05}.{}", self.file().extension())
    }

    /// The files beside those of rows, by name; `files` are those of rows.
    pub(super) fn beside(self, split: &str, files: &[(&str, &Written)]) -> Vec<(&'static str, Value)> {
        match self {
            Self::LlamaFactory => llama_factory::beside(split, files),
            _ => Vec::new(),
        }
    }

    /// Whether it makes a file `name`, of the split `split`, with some number of files.
    pub(super) fn may_make(self, split: &str, name: &str) -> bool {
        if self.beside(split, &[]).iter().any(|(beside, _)| *beside == name) {
            return true;
        }
        let numbers = || {
            let (index, count) = name.rsplit_once('.')?.0.rsplit_once("-of-")?;
            Some((index.rsplit_once('-')?.1.parse().ok()?, count.parse().ok()?))
        };
        let (index, count) = numbers().unwrap_or((0, 1));
        name == self.name(split, index, count)
    }
}

/// What rows lack for labels of the answers of `sides`.
fn labels_problems(input: &Schema, mask: Option<&str>, sides: &[Side]) -> Vec<Problem> {
    let missing = |name: &String| input.field_with_name(name).is_err();
    let masks = sides.iter().map(|side| side.key_mask(mask)).find(missing);
    let ids = sides.iter().map(|side| side.ids()).find(missing);
    match (masks, ids) {
        (Some(name), None) if mask.is_some() => {
            let names = input.fields().iter().filter_map(|field| field.name().strip_prefix("chosen_key_mask_"));
            let names = names.collect::<Vec<_>>().join(", ");
            let help = if names.is_empty() {
                "the rows have one mask: leave `mask` out".into()
            } else {
                format!("one of {names}")
            };
            vec![Problem::at("mask", format!("no column `{name}`")).help(help)]
        }
        (Some(name), _) | (None, Some(name)) => {
            vec![Problem::at("format", format!("no column `{name}`")).help("put a `select` stage before it")]
        }
        (None, None) => Vec::new(),
    }
}
