//! `score` — the log-probability of every response token under an oracle and under its reference; their difference is
//! the token reward (SePO, arXiv 2408.13518, section 3): `r_i = log pi_oracle(y_i | x, y_<i) - log pi_ref(y_i | x, y_<i)`.
//!
//! With `contrast` there is no oracle: the reference itself is asked for a better and for a worse answer (T-REG,
//! arXiv 2412.02685): `r_i = sigmoid(log pi_ref(y_i | x_better, y_<i) - log pi_ref(y_i | x_worse, y_<i)) - 1/2`.
//!
//! Tokens of an answer that are not the assistant's have log-probabilities, and a reward of zero.

use std::mem::take;
use std::ops::Not;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::needs::{ColumnName, has_ids, needs_ids};
use super::positions::Reads;
use super::{
    Conclusion, Defaults, Inputs, Keeps, Metrics, ModelCost, ModelUse, Operation, Outcome, Resources, Role, Rows,
    Shape, StageCost, TokenizerUse, Transform, Volume,
};
use crate::columns::lists::{Lists, assistant_masks, from_rows, ids};
use crate::columns::provenance::Provenance;
use crate::columns::{
    BETTER_PROMPT_IDS, PROMPT_IDS, REWARD_MARGIN, Side, WORSE_PROMPT_IDS, list_type, put, with_column,
};
use crate::error::{Error, Place, Problem, Result};
use crate::model::cost::Workload;
use crate::model::score::Logps;
use crate::model::{BatchTokens, DeviceSpec, ModelSource, PairIds, Precision, Scorer};

/// Adds log-probability and reward columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Stage that provides the rows, tokenized.
    #[schemars(extend("examples" = ["tokens"]))]
    pub input: String,
    /// Model trained with DPO. Without one, only the log-probabilities of the reference are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["oracle"]))]
    pub oracle: Option<String>,
    /// Model that the oracle was trained from. With `contrast`, the model that scores both prompts.
    #[schemars(extend("examples" = ["ref"]))]
    pub reference: String,
    /// Computes rewards from two prompts instead of an oracle. Reads what `tokenize` with `contrast` writes.
    #[serde(default, skip_serializing_if = "Not::not")]
    #[schemars(extend("examples" = [true]))]
    pub contrast: bool,
    /// Largest number of tokens in a forward pass, above 0. A longer row gets a pass of its own. A pass that the device has no memory for
    /// is split, and later ones are smaller.
    #[serde(default)]
    #[schemars(extend("examples" = [8192, "auto"], "x-unit" = "tokens"))]
    pub batch_tokens: BatchTokens,
    /// Precision of the weights. The default is the file's `precision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["bf16"]))]
    pub precision: Option<Precision>,
}

/// A pass takes at least one token.
pub(super) fn no_batch_tokens(batch_tokens: usize) -> Option<Problem> {
    (batch_tokens == 0).then(|| Problem::at("batch_tokens", "batch_tokens must be above 0"))
}

/// An oracle and a reference that are one model give every token the reward 0.
///
/// # Errors
/// Two models of one digest.
pub fn distinct(oracle: &ModelSource, reference: &ModelSource) -> Result<()> {
    if oracle.digest()? != reference.digest()? {
        return Ok(());
    }
    let message = format!(
        "is the same model as the reference `{}`, to the last bit: all rewards would be 0; name the model that was trained \
         with DPO, or see why its training changed nothing",
        reference.name
    );
    Err(Error::model(oracle, message))
}

/// The pairs of a batch.
///
/// # Errors
/// A column of token ids that is not there or has another type.
pub fn pairs(batch: &RecordBatch) -> Result<(Lists<'_, i32>, [Lists<'_, i32>; 2])> {
    Ok((ids(batch, PROMPT_IDS)?, [ids(batch, &Side::Chosen.ids())?, ids(batch, &Side::Rejected.ids())?]))
}

impl Score {
    /// The columns that it adds.
    ///
    /// # Errors
    /// Columns that are missing, and settings that contradict one another.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = needs_ids(input);
        problems.extend(self.wrong_settings());
        if self.contrast {
            let missing = [BETTER_PROMPT_IDS, WORSE_PROMPT_IDS].into_iter().filter(|name| !has_ids(input, name));
            let problem = |name| Problem::at("contrast", format!("no column `{name}`"));
            problems
                .extend(missing.map(|name| problem(name).help("give the `tokenize` stage before it `contrast: {}`")));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        let mut add = |name: &str, data_type| put(&mut fields, Field::new(name, data_type, false));
        for side in Side::BOTH {
            add(&side.ref_logps(), list_type(DataType::Float32));
            if self.oracle.is_some() {
                add(&side.oracle_logps(), list_type(DataType::Float32));
            }
            if self.contrast {
                add(&side.better_logps(), list_type(DataType::Float32));
                add(&side.worse_logps(), list_type(DataType::Float32));
            }
            if self.makes_rewards() {
                add(&side.token_rewards(), list_type(DataType::Float32));
            }
        }
        if self.makes_rewards() {
            Side::BOTH.iter().for_each(|side| add(&side.reward(), DataType::Float32));
            add(REWARD_MARGIN, DataType::Float32);
        }
        Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
    }

    fn makes_rewards(&self) -> bool {
        self.contrast || self.oracle.is_some()
    }

    /// What the stage reports, given the sums over all its units.
    ///
    /// # Errors
    /// An oracle that says of every token what the reference says.
    fn report(&self, mut sums: Metrics) -> Result<Conclusion> {
        let sum = |name: &str| sums.get(name).and_then(Value::as_f64).unwrap_or_default();
        let [right, pairs, zeros, tokens] = ["pairs_ranked_right", "pairs", "zero_rewards", "response_tokens"].map(sum);
        if !self.makes_rewards() || pairs == 0.0 {
            return Ok(sums.into());
        }
        if zeros == tokens && !self.contrast {
            let (oracle, reference) = (self.oracle.as_deref().unwrap_or_default(), &self.reference);
            let message = format!(
                "all {tokens} token rewards are 0: `{oracle}` says of every token what `{reference}` says; see whether its \
                 training took a step (`sepo plan`), and at what learning rate"
            );
            return Err(Error::stage("score", message));
        }
        let judge = if self.contrast { "contrast" } else { "oracle" };
        let share = zeros / tokens;
        let warnings = (share > 0.5).then(|| {
            let percent = 100.0 * share;
            format!("{percent:.1} % of all token rewards are exactly 0: the {judge} says nothing about these tokens")
        });
        sums.insert(format!("{judge}_pair_accuracy"), json!(right / pairs));
        Ok(Conclusion { metrics: sums, warnings: warnings.into_iter().collect() })
    }

    /// Loads the models, of which the one with the fewest has `positions` positions. Passes take at most `batch_tokens` tokens.
    ///
    /// # Errors
    /// A model that cannot be loaded; an oracle that is the reference.
    pub fn open(
        &self,
        oracle: Option<&ModelSource>,
        reference: &ModelSource,
        device: DeviceSpec,
        positions: Option<usize>,
        batch_tokens: usize,
    ) -> Result<Box<dyn Transform>> {
        oracle.map(|oracle| distinct(oracle, reference)).transpose()?;
        let load = |source: &ModelSource| -> Result<(Scorer, String)> {
            let precision = self.precision.unwrap_or_default();
            Ok((Scorer::load(source, device, precision, batch_tokens)?, source.digest()?))
        };
        let judge = match oracle {
            Some(oracle) => {
                let (scorer, digest) = load(oracle)?;
                let common = oracle.common_layers(reference)?;
                tracing::info!("oracle and reference have their first {common} layers in common, which run once");
                Judge::Oracle { scorer: Box::new(scorer), digest, common }
            }
            None if self.contrast => Judge::Prompts,
            None => Judge::Nobody,
        };
        let (reference, digest) = load(reference)?;
        Ok(Box::new(Scoring {
            judge,
            reference,
            digest,
            device: device.kind(),
            positions,
            seen: ScoreCounts::default(),
        }))
    }
}

struct Scoring {
    judge: Judge,
    reference: Scorer,
    /// Of the reference.
    digest: String,
    device: &'static str,
    positions: Option<usize>,
    seen: ScoreCounts,
}

/// What was counted since it was last asked.
#[derive(Default)]
struct ScoreCounts {
    /// Tokens of one model's passes.
    tokens: u64,
    /// Of all models' passes.
    operations: f64,
    rows: u64,
    ranked_right: u64,
    /// Tokens of the rows that went on, and those of them whose reward is exactly 0.
    response_tokens: u64,
    zero_rewards: u64,
}

impl Transform for Scoring {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let reads = match self.judge {
            Judge::Prompts => Reads::Behind(&[BETTER_PROMPT_IDS, WORSE_PROMPT_IDS]),
            Judge::Nobody | Judge::Oracle { .. } => Reads::Pairs,
        };
        let fitting = reads.sort_out(batch, self.positions)?;
        let scored = self.scored(&fitting.kept)?;
        Ok(fitting.then(scored))
    }

    fn counted(&mut self) -> Metrics {
        let ScoreCounts { tokens, operations, rows, ranked_right, response_tokens, zero_rewards } =
            take(&mut self.seen);
        let mut counted = Metrics::new();
        counted.insert("tokens".into(), json!(tokens));
        counted.insert("response_tokens".into(), json!(response_tokens));
        counted.insert("gflop".into(), json!(operations / 1e9));
        if !matches!(self.judge, Judge::Nobody) {
            counted.insert("pairs".into(), json!(rows));
            counted.insert("pairs_ranked_right".into(), json!(ranked_right));
            counted.insert("zero_rewards".into(), json!(zero_rewards));
        }
        counted
    }
}

impl Scoring {
    /// The rows of `batch`, which fit the models, with what these say of them.
    fn scored(&mut self, batch: &RecordBatch) -> Result<Outcome> {
        let (prompts, sides) = pairs(batch)?;
        let pairs: Vec<PairIds> = (0..batch.num_rows())
            .map(|row| PairIds { prompt: prompts.row(row), responses: sides.map(|side| side.row(row)) })
            .collect();
        let Judged { mut rewards, logps } = self.judge(batch, &pairs)?;
        // Tokens of turns that are not the assistant's have no reward.
        let mut unrewarded = vec![0_u64; pairs.len()];
        for side in Side::BOTH {
            let Some(own) = assistant_masks(batch, side)? else { continue };
            for (row, (rewards, own)) in rewards.iter_mut().flatten().zip(&own).enumerate() {
                for (reward, _) in rewards[side as usize].iter_mut().zip(own).filter(|(_, own)| !**own) {
                    *reward = 0.0;
                    unrewarded[row] += 1;
                }
            }
        }

        let is_finite = |row: usize| logps.iter().all(|(_, l)| l[row].iter().flatten().all(|logp| logp.is_finite()));
        let reasons: Vec<Option<&'static str>> =
            (0..pairs.len()).map(|row| (!is_finite(row)).then_some("log-probability is not finite")).collect();
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        for side in Side::BOTH {
            let of = |values: &Logps| from_rows::<Float32Type>(values.iter().map(|row| &row[side as usize]));
            columns.extend(logps.iter().map(|(name, values)| (name(side), of(values))));
            columns.extend(rewards.iter().map(|rewards| (side.token_rewards(), of(rewards))));
        }
        if let Some(rewards) = &rewards {
            let sum = |rewards: &Vec<f32>| rewards.iter().copied().map(f64::from).sum::<f64>();
            let sums: Vec<[f64; 2]> = rewards.iter().map(|row| row.each_ref().map(sum)).collect();
            for side in Side::BOTH {
                columns.push((side.reward(), floats(sums.iter().map(|sums| sums[side as usize]))));
            }
            let right = sums.iter().zip(&reasons).filter(|([c, r], reason)| c > r && reason.is_none());
            self.seen.ranked_right += right.count() as u64;
            columns.push((REWARD_MARGIN.to_owned(), floats(sums.iter().map(|[chosen, rejected]| chosen - rejected))));
        }
        for (row, _) in reasons.iter().enumerate().filter(|(_, reason)| reason.is_none()) {
            self.seen.rows += 1;
            let tokens: u64 = pairs[row].responses.iter().map(|ids| ids.len() as u64).sum();
            self.seen.response_tokens += tokens - unrewarded[row];
            let own = rewards.iter().flat_map(|rewards| rewards[row].iter().flatten());
            self.seen.zero_rewards +=
                (own.filter(|reward| **reward == 0.0).count() as u64).saturating_sub(unrewarded[row]);
        }
        let work: Workload = pairs.iter().map(PairIds::workload).sum();
        self.seen.tokens += work.tokens as u64;
        self.seen.operations += self.operations(work);

        let mut out = batch.clone();
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        let out = self.provenance(Provenance::of(&out.schema())).stamp_rows(&out);
        Outcome::sort_out(&out, &reasons)
    }

    /// Scores `pairs`, the rows of `batch`.
    fn judge(&self, batch: &RecordBatch, pairs: &[PairIds]) -> Result<Judged> {
        Ok(match &self.judge {
            Judge::Nobody => Judged { rewards: None, logps: vec![(Side::ref_logps, self.reference.logps(pairs)?)] },
            Judge::Oracle { scorer, common, .. } => {
                let [reference, oracle] = self.reference.logps_beside(scorer, *common, pairs)?;
                let rewards = token_rewards(&oracle, &reference, |oracle, reference| oracle - reference);
                let logps: Vec<(ColumnName, Logps)> = vec![(Side::ref_logps, reference), (Side::oracle_logps, oracle)];
                Judged { rewards: Some(rewards), logps }
            }
            Judge::Prompts => {
                let reference = self.reference.logps(pairs)?;
                let [better, worse] = [BETTER_PROMPT_IDS, WORSE_PROMPT_IDS].map(|name| self.behind(batch, name, pairs));
                let (better, worse) = (better?, worse?);
                let rewards = token_rewards(&better, &worse, contrast_reward);
                let columns: [ColumnName; 3] = [Side::ref_logps, Side::better_logps, Side::worse_logps];
                Judged { rewards: Some(rewards), logps: columns.into_iter().zip([reference, better, worse]).collect() }
            }
        })
    }

    /// Floating-point operations of all passes over `work`.
    fn operations(&self, work: Workload) -> f64 {
        let others = match &self.judge {
            Judge::Nobody => 0.0,
            Judge::Oracle { scorer, common, .. } => scorer.operations(work) - scorer.saved(*common, work),
            Judge::Prompts => 2.0 * self.reference.operations(work),
        };
        self.reference.operations(work) + others
    }

    /// What the reference says of the responses of `pairs` behind the prompts in column `name`.
    fn behind(&self, batch: &RecordBatch, name: &str, pairs: &[PairIds]) -> Result<Logps> {
        let prompts = ids(batch, name)?;
        if prompts.rows().any(<[i32]>::is_empty) {
            return Err(Error::data(Place::column(name), "holds an empty prompt; tokenize the rows again"));
        }
        let asked = prompts.rows().zip(pairs).map(|(prompt, pair)| PairIds { prompt, ..*pair });
        self.reference.logps(&asked.collect::<Vec<_>>())
    }

    fn provenance(&self, mut provenance: Provenance) -> Provenance {
        provenance.reference = Some(self.digest.clone());
        provenance.precision = serde_json::to_value(self.reference.precision()).ok();
        provenance.device = Some(self.device.to_owned());
        match &self.judge {
            Judge::Nobody => {}
            Judge::Oracle { digest, .. } => {
                provenance.oracle = Some(digest.clone());
                provenance.rewards = Some(json!({"oracle": digest, "reference": self.digest}));
            }
            Judge::Prompts => {
                provenance.rewards = Some(json!({"model": self.digest, "contrast": provenance.contrast}));
            }
        }
        provenance
    }
}

/// Who says what tokens are worth.
enum Judge {
    Nobody,
    /// `common` layers at the beginning are those of the reference.
    Oracle {
        scorer: Box<Scorer>,
        digest: String,
        common: usize,
    },
    Prompts,
}

/// Log-probabilities by column, and the token rewards that follow from them.
struct Judged {
    rewards: Option<Logps>,
    logps: Vec<(ColumnName, Logps)>,
}

/// The reward of every token, from what two models or prompts say of it.
fn token_rewards(one: &Logps, other: &Logps, reward: impl Fn(f32, f32) -> f32) -> Logps {
    let side = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| reward(*a, *b)).collect();
    let rows = one.iter().zip(other);
    rows.map(|(one, other)| [side(&one[0], &other[0]), side(&one[1], &other[1])]).collect()
}

/// `sigmoid(better - worse) - 1/2`, in [-1/2, 1/2].
fn contrast_reward(better: f32, worse: f32) -> f32 {
    (0.5 * (0.5 * (f64::from(better) - f64::from(worse))).tanh()) as f32
}

fn floats(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float32Array::from_iter_values(values.map(|value| value as f32)))
}

impl Operation for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        vec![("input", &self.input)]
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        let role = Role::Frozen(self.precision.unwrap_or_default());
        let oracle = self.oracle.iter().map(|name| ModelUse { field: "oracle", name, role });
        oracle.chain([ModelUse { field: "reference", name: &self.reference, role }]).collect()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        None
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Materialised(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let both = (self.contrast && self.oracle.is_some()).then(|| {
            let message = "rewards come from an oracle or from a contrast, not from both";
            Problem::at("contrast", message).help("leave one of them out, or write two stages")
        });
        no_batch_tokens(self.batch_tokens.at_least()).into_iter().chain(both).collect()
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        self.columns(&inputs.of(&self.input))
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    fn cost(&self, volume: &Volume) -> Option<StageCost<'_>> {
        // The contrast asks the reference twice more.
        let work = volume.work.times(if self.contrast { 3.0 } else { 1.0 });
        let model = |ModelUse { name, role, .. }| ModelCost { name, role, keeps: Keeps::OneLayer, work };
        let models = self.models().into_iter().map(model).collect();
        Some(StageCost { batch_tokens: self.batch_tokens, models })
    }

    fn default_to(&mut self, file: &Defaults) {
        self.precision.get_or_insert(file.precision);
    }

    fn conclude(&self, sums: Metrics) -> Result<Conclusion> {
        self.report(sums)
    }

    fn reward(&self) -> Option<(&'static str, [&str; 2])> {
        self.oracle.as_ref().map(|oracle| ("oracle", [oracle.as_str(), &self.reference]))
    }
}

impl Rows for Score {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Transform>> {
        let oracle = self.oracle.as_deref().map(|oracle| resources.model(oracle)).transpose()?;
        let reference = resources.model(&self.reference)?;
        let batch_tokens = resources.batch_tokens(self.batch_tokens)?;
        self.open(oracle.as_ref(), &reference, resources.device(), resources.positions()?, batch_tokens)
    }
}
