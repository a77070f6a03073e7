//! `audit` — how good a token reward is where the answers are known: how well it ranks planted tokens over the rest
//! (AUROC), how many of them the key masks catch, and how much of the reward lies in how few tokens.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tokenize::span_mask;
use super::{
    Compared, Ending, Finished, Inputs, Metrics, ModelUse, Operation, Resources, Shape, Sink, StageCost, TokenizerUse,
    Volume,
};
use crate::columns::Side;
use crate::columns::lists::{floats, masks};
use crate::error::{Error, Problem, Result};
use crate::report::Gathered;

/// Compares rewards and masks with known answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Stage that provides the rows, scored and selected.
    #[schemars(extend("examples" = ["keyed"]))]
    pub input: String,
    /// Name of the spans, listed in `tokenize`'s `spans`, whose `{side}_{spans}_mask` marks the known key tokens.
    #[schemars(extend("examples" = ["planted"]))]
    pub spans: String,
}

impl Audit {
    /// Columns that are missing.
    pub fn problems(&self, input: &Schema) -> Vec<Problem> {
        let names = Side::BOTH.into_iter().flat_map(|side| {
            [side.token_rewards(), side.ref_logps(), side.key_mask(None), span_mask(side, &self.spans)]
        });
        let missing = names.filter(|name| input.field_with_name(name).is_err());
        missing.map(|name| Problem::at("input", format!("no column `{name}`"))).collect()
    }
}

/// The most tokens that are ranked: their values, at most 32 bytes a token, stay in memory.
const MOST_TOKENS: u64 = 1 << 26;

/// Values of one kind of reward: (value, planted), high where the token should be a key token.
type Ranked = Vec<(f32, bool)>;

/// What was seen of one kind of reward.
#[derive(Debug, Default)]
struct Ranking {
    tokens: Ranked,
    /// As `tokens`, but a run of planted tokens counts once, with its highest value: the later tokens of a word follow
    /// from its first, and what is certain carries no reward.
    places: Ranked,
    /// Whether the last token was planted.
    in_place: bool,
}

impl Ranking {
    fn add(&mut self, value: f32, planted: bool) {
        self.tokens.push((value, planted));
        match self.places.last_mut() {
            Some((highest, _)) if planted && self.in_place => *highest = highest.max(value),
            _ => self.places.push((value, planted)),
        }
        self.in_place = planted;
    }
}

/// What was seen of both sides.
#[derive(Debug, Default)]
pub struct AuditSums {
    /// By side: the reward, the reference's log-probability, a random number.
    rankings: [[Ranking; 3]; 2],
    tokens: u64,
    planted: [u64; 2],
    caught: [u64; 2],
    gathered: [Gathered; 2],
}

/// `reward_in_best_10` to `reward_in_best_100`.
fn shares(gathered: &Gathered) -> impl Iterator<Item = (String, Value)> + '_ {
    let tenths = gathered.shares().filter(|(percent, _)| percent % 10 == 0);
    tenths.map(|(percent, share)| (format!("reward_in_best_{percent}"), json!(share)))
}

impl AuditSums {
    /// Adds the rows of `batch`.
    ///
    /// # Errors
    /// A column that is not there or has another type; more than 2^26 tokens in all.
    pub fn add(&mut self, batch: &RecordBatch, spans: &str) -> Result<()> {
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            let sign = if side == Side::Chosen { 1.0_f32 } else { -1.0 };
            let (rewards, reference) = (floats(batch, &side.token_rewards())?, floats(batch, &side.ref_logps())?);
            let (planted, key) = (masks(batch, &span_mask(side, spans))?, masks(batch, &side.key_mask(None))?);
            for row in 0..batch.num_rows() {
                self.tokens += rewards.row(row).len() as u64;
                if self.tokens > MOST_TOKENS {
                    let message = format!(
                        "ranks at most {MOST_TOKENS} tokens, which stay in memory; let it read fewer rows by `limit` of `read`"
                    );
                    return Err(Error::stage("audit", message));
                }
                self.rankings[index].iter_mut().for_each(|ranking| ranking.in_place = false);
                for token in 0..rewards.row(row).len() {
                    let planted = planted[row][token];
                    let seen = self.rankings[index][0].tokens.len() as u64;
                    let hash = blake3::hash(&(seen * 2 + index as u64).to_le_bytes());
                    let random = f32::from(hash.as_bytes()[0]) * 256.0 + f32::from(hash.as_bytes()[1]);
                    let values = [sign * rewards.row(row)[token], sign * reference.row(row)[token], random];
                    for (ranking, value) in self.rankings[index].iter_mut().zip(values) {
                        ranking.add(value, planted);
                    }
                    self.planted[index] += u64::from(planted);
                    self.caught[index] += u64::from(planted && key[row][token]);
                }
                let own = rewards.row(row).iter().map(|reward| f64::from(sign * *reward));
                self.gathered[index].add(own.collect());
            }
        }
        Ok(())
    }

    /// One entry a side and kind of reward.
    pub fn metrics(mut self) -> Metrics {
        let mut metrics = Metrics::new();
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            let [reward, reference, random] = self.rankings[index].each_mut().map(|r| auroc(&mut r.tokens));
            let places = self.rankings[index][0].places.iter().filter(|(_, planted)| *planted).count();
            let by_place = self.rankings[index].each_mut().map(|r| auroc(&mut r.places));
            let caught = self.caught[index] as f64 / self.planted[index].max(1) as f64;
            let mut numbers = json!({
                "reward_auroc": reward, "reference_logp_auroc": reference, "random_auroc": random,
                "planted_tokens": self.planted[index], "planted_in_key_mask": caught,
                "planted_places": places, "reward_place_auroc": by_place[0],
                "reference_logp_place_auroc": by_place[1], "random_place_auroc": by_place[2],
            });
            numbers.as_object_mut().into_iter().for_each(|numbers| numbers.extend(shares(&self.gathered[index])));
            metrics.insert(side.name().to_owned(), numbers);
        }
        metrics
    }
}

/// The probability that a planted token ranks above another, ties counting half (Mann and Whitney); null without both
/// kinds.
fn auroc(ranked: &mut Ranked) -> Value {
    ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let planted = ranked.iter().filter(|(_, planted)| *planted).count() as f64;
    let others = ranked.len() as f64 - planted;
    if planted == 0.0 || others == 0.0 {
        return Value::Null;
    }
    let (mut wins, mut below) = (0.0, 0.0);
    for ties in ranked.chunk_by(|(a, _), (b, _)| a == b) {
        let here = ties.iter().filter(|(_, planted)| *planted).count() as f64;
        let rest = ties.len() as f64 - here;
        wins += here * (below + rest / 2.0);
        below += rest;
    }
    json!(wins / (planted * others))
}

impl Operation for Audit {
    fn name(&self) -> &'static str {
        "audit"
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
        Shape::Sink(self)
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let input = inputs.of(&self.input);
        let problems = self.problems(&input);
        if problems.is_empty() { Ok(input) } else { Err(problems) }
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }

    fn compared(&self) -> Option<Compared> {
        let table = AuditSums::default().metrics();
        let numbers = table.values().filter_map(Value::as_object).flat_map(|numbers| numbers.keys().cloned());
        let numbers: BTreeSet<String> = numbers.collect();
        Some(Compared { labels: table.keys().cloned().collect(), numbers: numbers.into_iter().collect() })
    }
}

impl Ending for Audit {
    fn open(&self, _resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Auditing { spans: self.spans.clone(), seen: AuditSums::default() }))
    }
}

struct Auditing {
    spans: String,
    seen: AuditSums,
}

impl Sink for Auditing {
    fn take(&mut self, _input: usize, batch: &RecordBatch) -> Result<()> {
        self.seen.add(batch, &self.spans)
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        Ok(Finished { metrics: self.seen.metrics(), ..Finished::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_once_with_its_best_token() {
        let mut ranking = Ranking::default();
        for (value, planted) in [(0.2, false), (0.1, true), (0.9, true), (0.3, true), (0.4, false), (0.0, true)] {
            ranking.add(value, planted);
        }
        assert_eq!(ranking.tokens.len(), 6);
        assert_eq!(ranking.places, [(0.2, false), (0.9, true), (0.4, false), (0.0, true)]);
    }

    // sklearn 1.7: roc_auc_score([0, 0, 1, 1, 0], [0.1, 0.4, 0.35, 0.8, 0.35]) -> 0.75
    #[test]
    fn auroc_counts_ties_half() {
        let mut ranked = vec![(0.1, false), (0.4, false), (0.35, true), (0.8, true), (0.35, false)];
        assert_eq!(auroc(&mut ranked), json!(0.75));
        assert_eq!(auroc(&mut vec![(1.0, true)]), Value::Null);
    }
}
