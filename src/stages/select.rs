//! `select` — token rewards to key-token masks (SePO, arXiv 2408.13518): the top share of every chosen response, the
//! bottom share of every rejected one. Masks are derived, so any number of rules may stand side by side. Where an answer
//! has turns of others than the assistant, only the assistant's tokens count.

mod rules;

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::score::{needs_floats, needs_rewards};
use super::{Metrics, Outcome, Transform};
use crate::columns::lists::{assistant_masks, floats, from_masks, from_rows, marked, of};
use crate::columns::provenance::Provenance;
use crate::columns::{ROW_ID, Side, list_type, put, with_column};
use crate::error::{Error, Place, Problem, Result};
use rules::Masks;
pub use rules::{Pick, Rule};

/// Adds key-token masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The stage whose rows to take.
    pub input: String,
    /// Which tokens of the chosen response are key tokens.
    #[serde(default = "default_chosen")]
    pub chosen: Pick,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default = "default_rejected")]
    pub rejected: Pick,
    /// How the picks are applied.
    #[serde(default)]
    pub rule: Rule,
    /// Further masks by name, `{side}_key_mask_{name}`, with what they change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Named>,
}

/// A further mask: what is left out is as in the stage itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Which tokens of the chosen response are key tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Pick>,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Pick>,
    /// How the picks are applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

fn default_chosen() -> Pick {
    Pick::Top(0.3)
}

fn default_rejected() -> Pick {
    Pick::Bottom(0.3)
}

impl Select {
    /// The masks that it makes, by name; the stage's own has none.
    fn rules(&self) -> Vec<(Option<&str>, [Pick; 2], Rule)> {
        let own = (None, [self.chosen, self.rejected], self.rule);
        let also = self.also.iter().map(|(name, named)| {
            let picks = [named.chosen.unwrap_or(self.chosen), named.rejected.unwrap_or(self.rejected)];
            (Some(name.as_str()), picks, named.rule.unwrap_or(self.rule))
        });
        std::iter::once(own).chain(also).collect()
    }

    /// The columns that it adds.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = Vec::new();
        let rules = self.rules();
        let (by_logps, by_rewards): (Vec<Rule>, Vec<Rule>) =
            rules.iter().map(|(.., rule)| *rule).partition(|rule| *rule == Rule::Confidence);
        if !by_rewards.is_empty() {
            problems.extend(needs_rewards(input));
        }
        if !by_logps.is_empty() {
            problems.extend(needs_floats(input, Side::ref_logps, "put a `score` stage before it"));
        }
        for (name, picks, rule) in &rules {
            for (pick, side) in picks.iter().zip(Side::BOTH) {
                let path = name.map_or(vec![side.name()], |name| vec!["also", name, side.name()]);
                problems.extend(pick.problem(*rule).map(|message| Problem::at("", message).within(&path)));
            }
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        for (name, ..) in rules {
            for side in Side::BOTH {
                put(&mut fields, Field::new(side.key_mask(name), list_type(DataType::Boolean), false));
            }
        }
        let schema = Schema::new_with_metadata(fields, input.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// Makes the transform.
    pub fn open(&self) -> Box<dyn Transform> {
        Box::new(Work { stage: self.clone(), tokens: 0, key: 0, stand_ins: 0 })
    }
}

/// `key`, which has a value for every token that is the assistant's `own`, over all tokens.
fn spread(key: &[bool], own: &[bool]) -> Vec<bool> {
    let mut key = key.iter();
    own.iter().map(|own| *own && key.next().is_some_and(|key| *key)).collect()
}

struct Work {
    stage: Select,
    tokens: u64,
    key: u64,
    stand_ins: u64,
}

/// What the stage reports, given the sums over all its units.
pub(super) fn conclude(mut sums: Metrics) -> Metrics {
    let [key, all] = ["key_tokens", "response_tokens"].map(|name| sums.get(name).and_then(Value::as_f64));
    if let (Some(key), Some(all)) = (key, all) {
        sums.insert("key_share".into(), json!(key / all.max(1.0)));
    }
    sums
}

impl Transform for Work {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let keys: Vec<String> = (0..batch.num_rows())
            .map(|row| crate::columns::row_id(&batch.slice(row, 1)).unwrap_or_else(|| format!("{ROW_ID} {row}")))
            .collect();
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        let mut provenance = Provenance::of(&batch.schema());
        for (name, picks, rule) in self.stage.rules() {
            for (side, pick) in Side::BOTH.into_iter().zip(picks) {
                let values = floats(&batch, &rule.reads(side))?;
                let own = assistant_masks(&batch, side)?;
                let spoken = own.as_ref().map(|own| {
                    from_rows::<Float32Type>(values.rows().zip(own).map(|(values, own)| marked(values, own)))
                });
                let values = spoken.as_ref().map_or(values, of::<Float32Type>);
                let Masks { mut rows, stand_ins } = rules::masks(values, pick, rule, side, &keys);
                if name.is_none() {
                    self.tokens += rows.iter().map(|mask| mask.len() as u64).sum::<u64>();
                    self.key += rows.iter().flatten().filter(|key| **key).count() as u64;
                    self.stand_ins += stand_ins;
                }
                if let Some(own) = &own {
                    rows = rows.iter().zip(own).map(|(key, own)| spread(key, own)).collect();
                }
                columns.push((side.key_mask(name), from_masks(&rows)));
            }
            let rule = json!({"chosen": picks[0], "rejected": picks[1], "rule": rule});
            provenance.masks.insert(name.unwrap_or_default().to_owned(), rule);
        }
        let mut out = batch;
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        Ok(Outcome::all(provenance.stamp_rows(&out)))
    }

    fn counted(&mut self) -> Metrics {
        let counted = [
            ("key_tokens", take(&mut self.key)),
            ("response_tokens", take(&mut self.tokens)),
            ("responses_without_selection", take(&mut self.stand_ins)),
        ];
        counted.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect()
    }
}
