//! `score` — the log-probability of every response token under an oracle and under its reference; their difference is
//! the token reward (SePO, arXiv 2408.13518, section 3): `r_i = log pi_oracle(y_i | x, y_<i) - log pi_ref(y_i | x, y_<i)`.

use std::mem::take;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Metrics, Outcome, Transform};
use crate::columns::lists::{Lists, from_rows, ids};
use crate::columns::provenance::Provenance;
use crate::columns::{PROMPT_IDS, REWARD_MARGIN, Side, list_type, put, with_column};
use crate::error::{Error, Place, Problem, Result};
use crate::model::score::PairIds;
use crate::model::{DeviceSpec, ModelSource, Precision, Scorer};

/// Adds log-probability and reward columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The stage whose rows to take.
    pub input: String,
    /// The model that was trained with DPO; without one, only the reference's log-probabilities are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle: Option<String>,
    /// The model that the oracle started from.
    pub reference: String,
    /// Most tokens in one forward pass.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// Numbers of the weights; by default what the file's `precision` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

/// Tokens of a forward pass without a word about it: fits two thousand positions of a small model in every cache.
pub(super) fn default_batch_tokens() -> usize {
    4096
}

/// Checks that the token columns are there.
pub(super) fn needs_ids(input: &Schema) -> Vec<Problem> {
    let names = [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()];
    let missing = names.iter().filter(|name| {
        input.field_with_name(name).map_or(true, |field| *field.data_type() != list_type(DataType::Int32))
    });
    missing
        .map(|name| Problem::at("input", format!("no column `{name}`")).help("put a `tokenize` stage before it"))
        .collect()
}

/// Whether `rows` have `list<float32>` in column `name`.
pub(super) fn has_floats(rows: &Schema, name: &str) -> bool {
    rows.field_with_name(name).is_ok_and(|field| *field.data_type() == list_type(DataType::Float32))
}

/// Checks that token rewards are there.
pub(super) fn needs_rewards(rows: &Schema) -> Vec<Problem> {
    let names = Side::BOTH.map(Side::token_rewards).into_iter().filter(|name| !has_floats(rows, name));
    let help = "put a `score` stage with an oracle or a contrast before it";
    names.map(|name| Problem::at("input", format!("no column `{name}`")).help(help)).collect()
}

/// The pairs of a batch.
pub(super) fn pairs(batch: &RecordBatch) -> Result<(Lists<'_, i32>, [Lists<'_, i32>; 2])> {
    Ok((ids(batch, PROMPT_IDS)?, [ids(batch, &Side::Chosen.ids())?, ids(batch, &Side::Rejected.ids())?]))
}

impl Score {
    /// The columns that it adds.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let problems = needs_ids(input);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        let mut add = |name: &str, data_type| put(&mut fields, Field::new(name, data_type, false));
        for side in Side::BOTH {
            add(&side.ref_logps(), list_type(DataType::Float32));
            if self.oracle.is_some() {
                add(&side.oracle_logps(), list_type(DataType::Float32));
                add(&side.token_rewards(), list_type(DataType::Float32));
                add(&side.reward(), DataType::Float32);
            }
        }
        if self.oracle.is_some() {
            add(REWARD_MARGIN, DataType::Float32);
        }
        Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
    }

    /// Loads the models.
    pub fn open(
        &self,
        oracle: Option<&ModelSource>,
        reference: &ModelSource,
        device: DeviceSpec,
    ) -> Result<Box<dyn Transform>> {
        let load = |source: &ModelSource| -> Result<(Scorer, String)> {
            let precision = self.precision.unwrap_or_default();
            Ok((Scorer::load(source, device, precision, self.batch_tokens)?, source.digest()?))
        };
        Ok(Box::new(Work {
            oracle: oracle.map(load).transpose()?,
            reference: load(reference)?,
            tokens: 0,
            accurate: 0,
            rows: 0,
        }))
    }
}

struct Work {
    oracle: Option<(Scorer, String)>,
    reference: (Scorer, String),
    tokens: u64,
    accurate: u64,
    rows: u64,
}

impl Transform for Work {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let (prompts, sides) = pairs(&batch)?;
        let pairs: Vec<PairIds> = (0..batch.num_rows())
            .map(|row| PairIds { prompt: prompts.row(row), responses: sides.map(|side| side.row(row)) })
            .collect();
        let reference = self.reference.0.logps(&pairs)?;
        let oracle = self.oracle.as_ref().map(|(scorer, _)| scorer.logps(&pairs)).transpose()?;
        let mut reasons: Vec<Option<&'static str>> = vec![None; pairs.len()];
        let mut check = |logps: &[[Vec<f32>; 2]]| {
            for (row, sides) in logps.iter().enumerate() {
                if sides.iter().flatten().any(|logp| !logp.is_finite()) {
                    reasons[row] = Some("log-probability is not finite");
                }
            }
        };
        check(&reference);
        oracle.iter().for_each(|logps| check(logps));

        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        let mut sums = [Vec::new(), Vec::new()];
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            columns.push((side.ref_logps(), from_rows::<Float32Type>(reference.iter().map(|row| &row[index]))));
            let Some(oracle) = &oracle else { continue };
            let rewards: Vec<Vec<f32>> = oracle
                .iter()
                .zip(&reference)
                .map(|(o, r)| o[index].iter().zip(&r[index]).map(|(o, r)| o - r).collect())
                .collect();
            let sum = |rewards: &Vec<f32>| rewards.iter().copied().map(f64::from).sum::<f64>();
            sums[index] = rewards.iter().map(sum).collect();
            columns.push((side.oracle_logps(), from_rows::<Float32Type>(oracle.iter().map(|row| &row[index]))));
            columns.push((side.token_rewards(), from_rows::<Float32Type>(&rewards)));
            columns.push((side.reward(), floats(sums[index].iter().copied())));
        }
        if oracle.is_some() {
            let margins: Vec<f64> = sums[0].iter().zip(&sums[1]).map(|(chosen, rejected)| chosen - rejected).collect();
            self.accurate +=
                margins.iter().zip(&reasons).filter(|(m, reason)| **m > 0.0 && reason.is_none()).count() as u64;
            columns.push((REWARD_MARGIN.to_owned(), floats(margins.into_iter())));
        }
        self.rows += reasons.iter().filter(|reason| reason.is_none()).count() as u64;
        self.tokens += pairs.iter().flat_map(|pair| pair.responses).map(|ids| ids.len() as u64).sum::<u64>();

        let mut out = batch.clone();
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        let mut provenance = Provenance::of(&out.schema());
        provenance.reference = Some(self.reference.1.clone());
        provenance.precision = serde_json::to_value(self.reference.0.precision()).ok();
        if let Some((_, digest)) = &self.oracle {
            provenance.oracle = Some(digest.clone());
        }
        let out = provenance.stamp_rows(&out);
        Outcome::sort_out(&out, &reasons)
    }

    fn counted(&mut self) -> Metrics {
        let mut counted = Metrics::new();
        counted.insert("response_tokens".into(), json!(take(&mut self.tokens)));
        if self.oracle.is_some() {
            counted.insert("pairs".into(), json!(take(&mut self.rows)));
            counted.insert("pairs_ranked_right".into(), json!(take(&mut self.accurate)));
        }
        counted
    }

    fn conclude(&self, mut sums: Metrics) -> Result<Metrics> {
        let [right, pairs] = ["pairs_ranked_right", "pairs"].map(|name| sums.get(name).and_then(Value::as_f64));
        if let (Some(right), Some(pairs)) = (right, pairs.filter(|pairs| *pairs > 0.0)) {
            sums.insert("oracle_pair_accuracy".into(), json!(right / pairs));
        }
        Ok(sums)
    }
}

fn floats(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float32Array::from_iter_values(values.map(|value| value as f32)))
}
