//! `select` — token rewards to key-token masks (SePO, arXiv 2408.13518): the top share of every chosen response, the
//! bottom share of every rejected one. Masks are derived, so any number of rules may stand side by side.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Metrics, Outcome, Transform};
use crate::columns::lists::{floats, from_masks};
use crate::columns::provenance::Provenance;
use crate::columns::{ROW_ID, Side, list_type, put, with_column};
use crate::error::{Error, Place, Problem, Result};

/// Adds key-token masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The stage whose rows to take.
    pub input: String,
    /// Which tokens of the chosen response are key tokens.
    #[serde(default = "default_chosen")]
    pub chosen: Share,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default = "default_rejected")]
    pub rejected: Share,
    /// How the shares are applied.
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
    pub chosen: Option<Share>,
    /// Which tokens of the rejected response are key tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Share>,
    /// How the shares are applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

/// A share of a response's tokens, in (0, 1], by reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// The tokens with the highest rewards.
    Top(f64),
    /// The tokens with the lowest rewards.
    Bottom(f64),
}

/// How shares become masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// `max(1, round-half-up(share * n))` of all n tokens; ties go to the lower index.
    #[default]
    Share,
    /// The authors' script: the first token is never scored, `trunc(share * (n - 1))` of the others.
    Official,
    /// A control: as many tokens, drawn at random by a hash of the row.
    Random,
    /// A control: key tokens of the chosen response alone.
    ChosenOnly,
    /// A control: key tokens of the rejected response alone.
    RejectedOnly,
    /// A control: every token.
    All,
}

fn default_chosen() -> Share {
    Share::Top(0.3)
}

fn default_rejected() -> Share {
    Share::Bottom(0.3)
}

impl Share {
    fn size(self) -> f64 {
        match self {
            Self::Top(share) | Self::Bottom(share) => share,
        }
    }
}

impl Select {
    /// The masks that it makes, by name; the stage's own has none.
    fn rules(&self) -> Vec<(Option<&str>, [Share; 2], Rule)> {
        let own = (None, [self.chosen, self.rejected], self.rule);
        let also = self.also.iter().map(|(name, named)| {
            let shares = [named.chosen.unwrap_or(self.chosen), named.rejected.unwrap_or(self.rejected)];
            (Some(name.as_str()), shares, named.rule.unwrap_or(self.rule))
        });
        std::iter::once(own).chain(also).collect()
    }

    /// The columns that it adds.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = Vec::new();
        for side in Side::BOTH {
            let name = side.token_rewards();
            if input.field_with_name(&name).map_or(true, |f| *f.data_type() != list_type(DataType::Float32)) {
                let problem = Problem::at("input", format!("no column `{name}`"));
                problems.push(problem.help("put a `score` stage with an oracle before it"));
            }
        }
        for (name, shares, _) in self.rules() {
            for (share, side) in shares.into_iter().zip(["chosen", "rejected"]) {
                if !(share.size() > 0.0 && share.size() <= 1.0) {
                    let field = name.map_or(side, |_| "also");
                    problems.push(Problem::at(field, format!("a share is {}; it must be in (0, 1]", share.size())));
                }
            }
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        for (name, ..) in self.rules() {
            for side in Side::BOTH {
                put(&mut fields, Field::new(side.key_mask(name), list_type(DataType::Boolean), false));
            }
        }
        let schema = Schema::new_with_metadata(fields, input.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// Makes the transform.
    pub fn open(&self) -> Box<dyn Transform> {
        Box::new(Work { stage: self.clone(), tokens: 0, key: 0 })
    }
}

struct Work {
    stage: Select,
    tokens: u64,
    key: u64,
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
        for (name, shares, rule) in self.stage.rules() {
            for (side, share) in Side::BOTH.into_iter().zip(shares) {
                let rewards = floats(&batch, &side.token_rewards())?;
                let masks: Vec<Vec<bool>> =
                    rewards.rows().zip(&keys).map(|(rewards, key)| mask(rewards, share, rule, side, key)).collect();
                if name.is_none() {
                    self.tokens += masks.iter().map(|mask| mask.len() as u64).sum::<u64>();
                    self.key += masks.iter().flatten().filter(|key| **key).count() as u64;
                }
                columns.push((side.key_mask(name), from_masks(&masks)));
            }
            let rule = json!({"chosen": shares[0], "rejected": shares[1], "rule": rule});
            provenance.masks.insert(name.unwrap_or_default().to_owned(), rule);
        }
        let mut out = batch;
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        Ok(Outcome::all(provenance.stamp_rows(&out)))
    }

    fn counted(&mut self) -> Metrics {
        let counted = [("key_tokens", take(&mut self.key)), ("response_tokens", take(&mut self.tokens))];
        counted.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect()
    }
}

/// The key tokens of one response.
fn mask(rewards: &[f32], share: Share, rule: Rule, side: Side, row: &str) -> Vec<bool> {
    let n = rewards.len();
    let count = ((share.size() * n as f64 + 0.5).floor() as usize).clamp(1, n.max(1));
    let worth = |index: usize| match share {
        Share::Top(_) => -rewards[index],
        Share::Bottom(_) => rewards[index],
    };
    match rule {
        Rule::Share => first_by(n, 0, count, worth),
        Rule::Official => first_by(n, 1, (share.size() * n.saturating_sub(1) as f64) as usize, worth),
        Rule::ChosenOnly | Rule::RejectedOnly => {
            let keeps = (rule == Rule::ChosenOnly) == (side == Side::Chosen);
            if keeps { first_by(n, 0, count, worth) } else { vec![false; n] }
        }
        Rule::All => vec![true; n],
        Rule::Random => {
            let draw = |index: usize| {
                let hash = blake3::hash(format!("{}\0{row}\0{index}", side.name()).as_bytes());
                u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("a hash has 32 bytes")) as f32
            };
            first_by(n, 0, count, draw)
        }
    }
}

/// Marks the `count` indices from `from` on with the lowest worth; ties go to the lower index.
fn first_by(n: usize, from: usize, count: usize, worth: impl Fn(usize) -> f32) -> Vec<bool> {
    let mut order: Vec<(usize, f32)> = (from.min(n)..n).map(|index| (index, worth(index))).collect();
    order.sort_by(|(i, a), (j, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal).then(i.cmp(j)));
    let mut mask = vec![false; n];
    order.iter().take(count).for_each(|(index, _)| mask[*index] = true);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(rewards: &[f32], share: Share, rule: Rule) -> Vec<usize> {
        let mask = mask(rewards, share, rule, Side::Chosen, "row");
        mask.iter().enumerate().filter_map(|(index, key)| key.then_some(index)).collect()
    }

    #[test]
    fn shares_round_half_up_and_ties_go_to_the_lower_index() {
        let rewards = [0.5, 2.0, -1.0, 2.0, 0.0];
        assert_eq!(places(&rewards, Share::Top(0.3), Rule::Share), [1, 3]);
        assert_eq!(places(&rewards, Share::Top(0.2), Rule::Share), [1]);
        assert_eq!(places(&rewards, Share::Bottom(0.3), Rule::Share), [2, 4]);
        assert_eq!(places(&[1.0], Share::Top(0.1), Rule::Share), [0]);
        assert!(places(&[], Share::Top(0.1), Rule::Share).is_empty());
    }

    // int(float(k) * N) with N = R - 1, the first response token never scored (token_score.py of the authors):
    // >>> [int(0.3 * n) for n in (0, 2, 3, 4, 9)], int(0.7 * 90), int(0.35 * 20)
    // ([0, 0, 0, 1, 2], 62, 7)
    #[test]
    fn the_official_rule_truncates_and_skips_the_first_token() {
        for (tokens, expected) in [(1, 0), (3, 0), (4, 0), (5, 1), (10, 2)] {
            let falling: Vec<f32> = (0..tokens).map(|i| -(i as f32)).collect();
            let found = places(&falling, Share::Top(0.3), Rule::Official);
            assert_eq!(found, (1..1 + expected).collect::<Vec<_>>(), "{tokens}");
        }
        assert_eq!(places(&[0.0; 91], Share::Top(0.7), Rule::Official).len(), 62);
        assert_eq!(places(&[0.0; 21], Share::Top(0.35), Rule::Official).len(), 7);
    }

    proptest! {
        #[test]
        fn no_token_outside_beats_one_inside(rewards in prop::collection::vec(-3f32..3.0, 1..60), k in 0.01..1.0f64) {
            for share in [Share::Top(k), Share::Bottom(k)] {
                let mask = mask(&rewards, share, Rule::Share, Side::Chosen, "row");
                let count = mask.iter().filter(|key| **key).count();
                prop_assert!((count as f64 - k * rewards.len() as f64).abs() <= 0.5 || count == 1);
                let side = |inside: bool| rewards.iter().zip(&mask).filter(move |(_, key)| **key == inside).map(|(r, _)| *r);
                for inside in side(true) {
                    for outside in side(false) {
                        let holds = match share { Share::Top(_) => inside >= outside, Share::Bottom(_) => inside <= outside };
                        prop_assert!(holds);
                    }
                }
            }
        }

        #[test]
        fn random_masks_are_as_large_and_repeat(rewards in prop::collection::vec(-3f32..3.0, 1..60), k in 0.01..1.0f64) {
            let random = |row| mask(&rewards, Share::Top(k), Rule::Random, Side::Rejected, row);
            let count = |mask: &[bool]| mask.iter().filter(|key| **key).count();
            prop_assert_eq!(random("a"), random("a"));
            prop_assert_eq!(count(&random("a")), count(&mask(&rewards, Share::Top(k), Rule::Share, Side::Rejected, "a")));
        }
    }
}
