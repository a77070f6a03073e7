//! Training objectives as plain arithmetic in f64: per-token log-probabilities of a pair in, loss and the loss's
//! derivative with respect to every log-probability out. No tensor, no column, no model.
//!
//! The trainer runs the model forward, asks the objective for `dLoss/dlogp`, and back-propagates `sum(c_i logp_i)`; so
//! every objective gets the same fast path, and each is checked with numbers on paper. An objective is a struct of
//! settings that implements [`Formula`], in a file of its own, and a variant of [`Objective`].

mod base;
mod contrast;
mod d2po;
mod dpo;
mod generator;
mod hinge;
mod ipo;
mod rrhf;
mod sepo;
mod sft;
mod simpo;
mod t_reg;
mod tbpo;
mod tbpo_a;
mod tbpo_q;
mod tdpo;
mod tgdpo;
mod tis_dpo;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
pub use base::Base;
pub use d2po::D2po;
pub use dpo::Dpo;
pub use generator::Generator;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use rrhf::Rrhf;
pub use sepo::{Normalizer, Sepo};
pub use sft::Sft;
pub use simpo::Simpo;
pub use t_reg::TReg;
pub use tbpo_a::TbpoA;
pub use tbpo_q::TbpoQ;
pub use tdpo::{Tdpo1, Tdpo2};
pub use tgdpo::Tgdpo;
pub use tis_dpo::{TisDpo, Weights};

/// The objective of a `train` stage: a map with one key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Negative log-likelihood of the chosen responses. The start of every recipe, and the usual reference of an
    /// oracle.
    Sft(Sft),
    /// Direct preference optimization. Trains the oracle, and is the baseline to beat; with label smoothing, or
    /// robust, for noisy labels.
    Dpo(Dpo),
    /// Regresses the margin to a target instead of increasing it without bound. For clean labels on which DPO
    /// overfits.
    Ipo(Ipo),
    /// Ignores pairs that are already ranked correctly by a margin. For clean labels and long trainings.
    Hinge(Hinge),
    /// Length-normalised, without a reference. For cases in which DPO makes answers too long.
    Simpo(Simpo),
    /// Ranks by mean log-probability and imitates the chosen response. A simple baseline without a reference.
    Rrhf(Rrhf),
    /// Selective preference optimization on key tokens only. For rewards that identify the tokens that matter.
    Sepo(Sepo),
    /// DPO with larger weights on tokens whose reward agrees with the label. For keeping all tokens in the loss.
    Tgdpo(Tgdpo),
    /// DPO or SimPO with token rewards as a regulariser. For noisy rewards that should only guide.
    TReg(TReg),
    /// DPO with bounded importance weights from token rewards. For rewards whose order is more reliable than their
    /// size.
    TisDpo(TisDpo),
    /// DPO or SimPO with larger weights on earlier tokens. Against long answers, without stored rewards.
    D2po(D2po),
    /// DPO that also counts the divergence from the reference at every token. For low learning rates. Runs the
    /// reference at every step.
    Tdpo1(Tdpo1),
    /// As `tdpo1`, but restrains only the divergence on the rejected response. For high learning rates.
    Tdpo2(Tdpo2),
    /// Compares responses token by token, with the divergence as the value of a state. For credit assignment to
    /// single tokens.
    TbpoA(TbpoA),
    /// As `tbpo_a`, with a learned value of each state. For memory that does not hold a second model beside the
    /// policy.
    TbpoQ(TbpoQ),
}

impl Objective {
    /// The word that names it in a pipeline file.
    pub fn name(&self) -> String {
        word(self)
    }

    /// What the name stands for.
    pub fn formula(&self) -> &dyn Formula {
        match self {
            Self::Sft(objective) => objective,
            Self::Dpo(objective) => objective,
            Self::Ipo(objective) => objective,
            Self::Hinge(objective) => objective,
            Self::Simpo(objective) => objective,
            Self::Rrhf(objective) => objective,
            Self::Sepo(objective) => objective,
            Self::Tgdpo(objective) => objective,
            Self::TReg(objective) => objective,
            Self::TisDpo(objective) => objective,
            Self::D2po(objective) => objective,
            Self::Tdpo1(objective) => objective,
            Self::Tdpo2(objective) => objective,
            Self::TbpoA(objective) => objective,
            Self::TbpoQ(objective) => objective,
        }
    }
}

/// What the trainer and the planner ask of an objective.
pub trait Formula {
    /// What it reads of a pair.
    fn needs(&self) -> Needs;

    /// Loss and gradient of one pair.
    fn evaluate(&self, pair: &Pair) -> Outcome;

    /// Settings that make no sense, by field.
    fn problems(&self) -> Vec<Problem>;

    /// The pair's share in the denominator of a batch's mean: one, unless the mean is not over pairs.
    fn weight(&self, _chosen_tokens: usize) -> f64 {
        1.0
    }
}

/// What an objective reads of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The tokens whose log-probabilities it reads: of the chosen response, of the rejected one.
    pub tokens: [Tokens; 2],
    /// Whether it reads the reference's log-probabilities of those tokens.
    pub reference: bool,
    /// Whether it reads stored rewards of those tokens.
    pub rewards: bool,
    /// What it reads of the state before each of those tokens.
    pub states: States,
}

/// A number for every state, that is, for what comes before a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum States {
    /// None.
    Nothing,
    /// KL(reference || policy) of the next token, in nats: the reference has to be at work beside the policy.
    Divergence,
    /// What a head that learns along says of the policy's last hidden state.
    Baseline {
        /// The head's width.
        width: usize,
    },
}

impl Needs {
    /// Whether the reference has to be at work beside the policy.
    pub fn live_reference(&self) -> bool {
        self.states == States::Divergence
    }

    /// Whether it reads the reference's log-probabilities from columns: a live reference says them itself.
    pub fn stored_reference(&self) -> bool {
        self.reference && !self.live_reference()
    }

    /// The policy's log-probabilities of `tokens`.
    const fn policy(tokens: [Tokens; 2]) -> Self {
        Self { tokens, reference: false, rewards: false, states: States::Nothing }
    }

    /// The policy's log-probabilities of all tokens.
    const fn all() -> Self {
        Self::policy([Tokens::All; 2])
    }

    const fn and_reference(self) -> Self {
        Self { reference: true, ..self }
    }

    const fn and_rewards(self) -> Self {
        Self { rewards: true, ..self }
    }

    const fn and_divergences(self) -> Self {
        Self { reference: true, states: States::Divergence, ..self }
    }

    const fn and_baselines(self, width: usize) -> Self {
        Self { states: States::Baseline { width }, ..self }
    }
}

/// Which tokens of a response an objective reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Every token.
    All,
    /// Those that the key mask marks.
    Key,
    /// None.
    Nothing,
}

/// One response as an objective sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Response<'a> {
    /// The policy's log-probability of every token that [`Needs::tokens`] asks for, in order.
    pub logps: &'a [f64],
    /// The reference's, for the same tokens; empty where [`Needs::reference`] does not ask for them.
    pub reference: &'a [f32],
    /// The rewards of the same tokens; empty where [`Needs::rewards`] does not ask for them.
    pub rewards: &'a [f32],
    /// The numbers of the states before the same tokens; empty where [`Needs::states`] does not ask for them.
    pub states: &'a [f64],
    /// Number of tokens of the whole response.
    pub length: usize,
}

/// Both responses to one prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pair<'a> {
    /// The better one.
    pub chosen: Response<'a>,
    /// The worse one.
    pub rejected: Response<'a>,
}

/// What an objective says about one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The pair's loss, in nats.
    pub loss: f64,
    /// `dLoss/dlogp` for every log-probability of the chosen response.
    pub chosen_grad: Vec<f64>,
    /// `dLoss/dlogp` for every log-probability of the rejected response.
    pub rejected_grad: Vec<f64>,
    /// The derivative with respect to every state's number, of chosen and rejected response; empty where it reads none.
    pub state_grads: [Vec<f64>; 2],
    /// The objective's implicit reward of the chosen response.
    pub chosen_reward: f64,
    /// The objective's implicit reward of the rejected response.
    pub rejected_reward: f64,
}

/// The key of an enum's value, which is a map with one key.
fn word(value: &impl Serialize) -> String {
    let map = serde_json::to_value(value).unwrap_or_default();
    map.as_object().and_then(|map| map.keys().next().cloned()).unwrap_or_default()
}

/// A problem with `field` unless its `value` `holds` what `rule` says.
fn must_be(field: &str, value: f64, holds: bool, rule: &str) -> Option<Problem> {
    (!holds).then(|| Problem::at(field, format!("{field} is {value}; it must be {rule}")))
}

fn above_zero(field: &str, value: f64) -> Option<Problem> {
    must_be(field, value, value > 0.0 && value.is_finite(), "above 0")
}

fn at_least_zero(field: &str, value: f64) -> Option<Problem> {
    must_be(field, value, value >= 0.0 && value.is_finite(), "0 or more")
}

fn a_number(field: &str, value: f64) -> Option<Problem> {
    must_be(field, value, value.is_finite(), "a number")
}

#[cfg(test)]
mod tests;
