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
use crate::error::{Problem, Result};

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

/// Values of one kind of reward: (value, planted), high where the token should be a key token.
type Ranked = Vec<(f64, bool)>;

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
    fn add(&mut self, value: f64, planted: bool) {
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
pub struct Seen {
    /// By side: the reward, the reference's log-probability, a random number.
    rankings: [[Ranking; 3]; 2],
    planted: [u64; 2],
    caught: [u64; 2],
    gathered: [Gathered; 2],
}

/// The reward in the best tenths of every response's tokens: those that are best for `sepo`, the highest of a chosen
/// response, the lowest of a rejected one.
#[derive(Debug, Default)]
struct Gathered {
    /// By tenths of a response's tokens, rounded up: their reward, counted positive where it speaks for its side.
    tenths: [f64; 10],
    /// Everything that speaks for its side.
    whole: f64,
}

impl Gathered {
    /// Adds a response; `rewards` are positive where they speak for its side.
    fn add(&mut self, mut rewards: Vec<f64>) {
        rewards.sort_unstable_by(|a, b| b.total_cmp(a));
        for (tenth, sum) in self.tenths.iter_mut().enumerate() {
            *sum += rewards.iter().take((rewards.len() * (tenth + 1)).div_ceil(10)).sum::<f64>();
        }
        self.whole += rewards.iter().filter(|reward| **reward > 0.0).sum::<f64>();
    }

    /// `reward_in_best_10` to `reward_in_best_100`: shares of `whole`. What speaks against its side is subtracted, so
    /// that the shares fall again where it begins.
    fn shares(&self) -> impl Iterator<Item = (String, Value)> + '_ {
        let name = |tenth: usize| format!("reward_in_best_{}", 10 * (tenth + 1));
        self.tenths.iter().enumerate().map(move |(tenth, sum)| (name(tenth), json!(sum / self.whole)))
    }
}

impl Seen {
    /// Adds the rows of `batch`.
    pub fn add(&mut self, batch: &RecordBatch, spans: &str) -> Result<()> {
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            let sign = if side == Side::Chosen { 1.0 } else { -1.0 };
            let (rewards, reference) = (floats(batch, &side.token_rewards())?, floats(batch, &side.ref_logps())?);
            let (planted, key) = (masks(batch, &span_mask(side, spans))?, masks(batch, &side.key_mask(None))?);
            for row in 0..batch.num_rows() {
                self.rankings[index].iter_mut().for_each(|ranking| ranking.in_place = false);
                for token in 0..rewards.row(row).len() {
                    let planted = planted[row][token];
                    let seen = self.rankings[index][0].tokens.len() as u64;
                    let hash = blake3::hash(&(seen * 2 + index as u64).to_le_bytes());
                    let random = f64::from(hash.as_bytes()[0]) * 256.0 + f64::from(hash.as_bytes()[1]);
                    let values = [
                        sign * f64::from(rewards.row(row)[token]),
                        sign * f64::from(reference.row(row)[token]),
                        random,
                    ];
                    for (ranking, value) in self.rankings[index].iter_mut().zip(values) {
                        ranking.add(value, planted);
                    }
                    self.planted[index] += u64::from(planted);
                    self.caught[index] += u64::from(planted && key[row][token]);
                }
                let own = rewards.row(row).iter().map(|reward| sign * f64::from(*reward));
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
            numbers.as_object_mut().into_iter().for_each(|numbers| numbers.extend(self.gathered[index].shares()));
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
        let table = Seen::default().metrics();
        let numbers = table.values().filter_map(Value::as_object).flat_map(|numbers| numbers.keys().cloned());
        let numbers: BTreeSet<String> = numbers.collect();
        Some(Compared { labels: table.keys().cloned().collect(), numbers: numbers.into_iter().collect() })
    }
}

impl Ending for Audit {
    fn open(&self, _resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Auditing { spans: self.spans.clone(), seen: Seen::default() }))
    }
}

struct Auditing {
    spans: String,
    seen: Seen,
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

    #[test]
    fn few_tokens_hold_most_of_the_reward() {
        let mut gathered = Gathered::default();
        gathered.add(vec![0.5, 6.0, -1.0, 1.5]);
        gathered.add(vec![2.0]);
        let shares: Vec<f64> = gathered.shares().map(|(_, share)| share.as_f64().unwrap()).collect();
        // 1, 1, 2, 2, 2, 3, 3, 4, 4, 4 tokens of the first response, the only one of the second.
        assert_eq!(shares, [0.8, 0.8, 0.95, 0.95, 0.95, 1.0, 1.0, 0.9, 0.9, 0.9]);
        assert_eq!(gathered.shares().last().unwrap().0, "reward_in_best_100");
    }

    // sklearn 1.7: roc_auc_score([0, 0, 1, 1, 0], [0.1, 0.4, 0.35, 0.8, 0.35]) -> 0.75
    #[test]
    fn auroc_counts_ties_half() {
        let mut ranked = vec![(0.1, false), (0.4, false), (0.35, true), (0.8, true), (0.35, false)];
        assert_eq!(auroc(&mut ranked), json!(0.75));
        assert_eq!(auroc(&mut vec![(1.0, true)]), Value::Null);
    }
}
