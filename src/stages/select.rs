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

use super::needs::{needs_floats, needs_rewards};
use super::{
    Conclusion, Derived, Inputs, Metrics, ModelUse, Operation, Outcome, Shape, StageCost, TokenizerUse, Transform,
    Volume,
};
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
    /// Stage that provides the rows, scored.
    #[schemars(extend("examples" = ["scored"]))]
    pub input: String,
    /// Which tokens of the chosen response are key tokens.
    #[serde(default = "default_chosen")]
    #[schemars(extend("examples" = [{"top": 0.3}]))]
    pub chosen: Pick,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default = "default_rejected")]
    #[schemars(extend("examples" = [{"bottom": 0.3}]))]
    pub rejected: Pick,
    /// How picks are turned into masks.
    #[serde(default)]
    #[schemars(extend("examples" = ["official"]))]
    pub rule: Rule,
    /// Additional masks by name, written to `{side}_key_mask_{name}`, with the settings in which they differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("examples" = [{"random": {"rule": "random"}}]))]
    pub also: BTreeMap<String, Named>,
}

/// An additional mask. Settings that are left out are those of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Which tokens of the chosen response are key tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"top": 0.1}]))]
    pub chosen: Option<Pick>,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"bottom": 0.1}]))]
    pub rejected: Option<Pick>,
    /// How picks are turned into masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["random"]))]
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
    ///
    /// # Errors
    /// Columns that are missing, and picks that select nothing or more than there is.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = self.wrong_settings();
        let rules = self.rules();
        let (by_logps, by_rewards): (Vec<Rule>, Vec<Rule>) =
            rules.iter().map(|(.., rule)| *rule).partition(|rule| *rule == Rule::Confidence);
        if !by_rewards.is_empty() {
            problems.extend(needs_rewards(input));
        }
        if !by_logps.is_empty() {
            problems.extend(needs_floats(input, Side::ref_logps, "put a `score` stage before it"));
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

    /// What the stage reports, given the sums over all its units.
    fn report(&self, mut sums: Metrics) -> Conclusion {
        let sum = |name: &str| sums.get(name).and_then(Value::as_f64).unwrap_or_default();
        let mut warnings = Vec::new();
        for (name, picks, rule) in self.rules() {
            let of = |counted: &str| sum(&metric(counted, name));
            let responses = of(RESPONSES);
            let mut warn = |count: f64, what: &str| {
                if count > 0.5 * responses {
                    let mask = Side::BOTH.map(|side| format!("`{}`", side.key_mask(name))).join(" and ");
                    warnings.push(format!("{mask}: in {count} of {responses} responses {what}"));
                }
            };
            warn(of(TIES), "all values are equal, so that the order of the tokens decided and not their rewards");
            if picks.iter().any(|pick| pick.may_select_nothing(rule)) {
                warn(of(STAND_INS), "the rule selects no token");
            }
        }
        let key_share = sum(KEY_TOKENS) / sum(TOKENS).max(1.0);
        if sums.contains_key(TOKENS) {
            sums.insert("key_share".into(), json!(key_share));
        }
        Conclusion { metrics: sums, warnings }
    }
}

/// `key`, which has a value for every token that is the assistant's `own`, over all tokens.
fn spread(key: &[bool], own: &[bool]) -> Vec<bool> {
    let mut key = key.iter();
    own.iter().map(|own| *own && key.next().is_some_and(|key| *key)).collect()
}

struct Selecting {
    stage: Select,
    /// Since it was last asked, by mask.
    seen: BTreeMap<Option<String>, MaskCounts>,
}

/// What was counted of one mask, on both sides.
#[derive(Default)]
struct MaskCounts {
    tokens: u64,
    key: u64,
    responses: u64,
    stand_ins: u64,
    ties: u64,
}

const TOKENS: &str = "response_tokens";
const KEY_TOKENS: &str = "key_tokens";
const RESPONSES: &str = "responses";
const STAND_INS: &str = "responses_without_selection";
const TIES: &str = "responses_decided_by_ties";

/// The name of a count: that of a further mask has its name behind it.
fn metric(counted: &str, mask: Option<&str>) -> String {
    mask.map_or_else(|| counted.to_owned(), |mask| format!("{counted}/{mask}"))
}

impl Transform for Selecting {
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
                let Masks { mut rows, stand_ins, ties } = rules::masks(values, pick, rule, side, &keys);
                let seen = self.seen.entry(name.map(str::to_owned)).or_default();
                seen.tokens += rows.iter().map(|mask| mask.len() as u64).sum::<u64>();
                seen.key += rows.iter().flatten().filter(|key| **key).count() as u64;
                seen.responses += rows.len() as u64;
                seen.stand_ins += stand_ins;
                seen.ties += ties;
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
        let mut metrics = Metrics::new();
        for (name, MaskCounts { tokens, key, responses, stand_ins, ties }) in take(&mut self.seen) {
            let counted =
                [(KEY_TOKENS, key), (TOKENS, tokens), (RESPONSES, responses), (STAND_INS, stand_ins), (TIES, ties)];
            // Of further masks, what may be wrong with them.
            let worth_saying = |at: usize| name.is_none() || at >= 2 && stand_ins + ties > 0;
            let counted = counted.into_iter().enumerate().filter(|(at, _)| worth_saying(*at));
            metrics.extend(counted.map(|(_, (what, count))| (metric(what, name.as_deref()), json!(count))));
        }
        metrics
    }
}

impl Operation for Select {
    fn name(&self) -> &'static str {
        "select"
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
        Shape::Inline(Arc::new(self.clone()))
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, picks, rule) in self.rules() {
            for (pick, side) in picks.iter().zip(Side::BOTH) {
                let path = name.map_or(vec![side.name()], |name| vec!["also", name, side.name()]);
                problems.extend(pick.problem(rule).map(|message| Problem::at("", message).within(&path)));
            }
        }
        problems
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        self.columns(&inputs.of(&self.input))
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }

    fn conclude(&self, sums: Metrics) -> Result<Conclusion> {
        Ok(self.report(sums))
    }
}

impl Derived for Select {
    fn open(&self) -> Box<dyn Transform> {
        Box::new(Selecting { stage: self.clone(), seen: BTreeMap::new() })
    }
}
