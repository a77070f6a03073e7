//! Training objectives as plain arithmetic in f64: per-token log-probabilities of a pair in, loss and the loss's
//! derivative with respect to every log-probability out. No tensor, no column, no model.
//!
//! The trainer runs the model forward, asks the objective for `dLoss/dlogp`, and back-propagates `sum(c_i logp_i)`; so
//! every objective gets the same fast path, and each is checked with numbers on paper.

pub mod dpo;
pub mod sepo;
pub mod sft;
pub mod simpo;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use dpo::Dpo;
pub use sepo::Sepo;
pub use sft::Sft;
pub use simpo::Simpo;

/// The objective of a `train` stage: a map with one key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Supervised fine-tuning on the chosen response: the start of every recipe.
    Sft(Sft),
    /// Direct preference optimization: trains the oracle.
    Dpo(Dpo),
    /// Reference-free, length-normalised preference optimization on all tokens.
    Simpo(Simpo),
    /// Selective preference optimization on the key tokens alone.
    Sepo(Sepo),
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
    /// The policy's log-probability of every token that [`Objective::tokens`] asks for, in order.
    pub logps: &'a [f64],
    /// The reference's, for the same tokens; empty where the objective has no reference.
    pub reference: &'a [f32],
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
    /// The objective's implicit reward of the chosen response.
    pub chosen_reward: f64,
    /// The objective's implicit reward of the rejected response.
    pub rejected_reward: f64,
}

impl Objective {
    /// The word that names it in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sft(_) => "sft",
            Self::Dpo(_) => "dpo",
            Self::Simpo(_) => "simpo",
            Self::Sepo(_) => "sepo",
        }
    }

    /// The tokens it reads: of the chosen response, of the rejected one.
    pub fn tokens(&self) -> [Tokens; 2] {
        match self {
            Self::Sft(_) => [Tokens::All, Tokens::Nothing],
            Self::Dpo(_) | Self::Simpo(_) => [Tokens::All; 2],
            Self::Sepo(_) => [Tokens::Key; 2],
        }
    }

    /// Whether it reads the reference's log-probabilities.
    pub fn needs_reference(&self) -> bool {
        matches!(self, Self::Dpo(_))
    }

    /// Loss and gradient of one pair.
    pub fn evaluate(&self, pair: &Pair) -> Outcome {
        match self {
            Self::Sft(objective) => objective.evaluate(pair),
            Self::Dpo(objective) => objective.evaluate(pair),
            Self::Simpo(objective) => objective.evaluate(pair),
            Self::Sepo(objective) => objective.evaluate(pair),
        }
    }

    /// The pair's share in the denominator of a batch's mean: its tokens for SFT (a mean over tokens, as TRL's), one
    /// for everything else (a mean over pairs).
    pub fn weight(&self, chosen_tokens: usize) -> f64 {
        match self {
            Self::Sft(_) => chosen_tokens as f64,
            Self::Dpo(_) | Self::Simpo(_) | Self::Sepo(_) => 1.0,
        }
    }

    /// Settings that make no sense: (field, what is wrong).
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut check = |field, holds: bool, rule: &str, value: f64| {
            if !holds {
                problems.push((field, format!("{field} is {value}; it must be {rule}")));
            }
        };
        let above_zero = |value: f64| value > 0.0 && value.is_finite();
        match *self {
            Self::Sft(_) => {}
            Self::Dpo(Dpo { beta, label_smoothing }) => {
                check("beta", above_zero(beta), "above 0", beta);
                check("label_smoothing", (0.0..0.5).contains(&label_smoothing), "in [0, 0.5)", label_smoothing);
            }
            Self::Simpo(Simpo { beta, margin }) => {
                check("beta", above_zero(beta), "above 0", beta);
                check("margin", margin.is_finite(), "a number", margin);
            }
            Self::Sepo(Sepo { gamma, margin }) => {
                check("gamma", above_zero(gamma), "above 0", gamma);
                check("margin", margin.is_finite(), "a number", margin);
            }
        }
        problems
    }
}

/// `log sigmoid(x)` without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `sigmoid(x)` without overflow.
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// The mean, and 0 for nothing: a side without key tokens has no say.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// `value` spread evenly over `count` tokens.
fn spread(value: f64, count: usize) -> Vec<f64> {
    vec![value / count.max(1) as f64; count]
}

#[cfg(test)]
mod tests;
