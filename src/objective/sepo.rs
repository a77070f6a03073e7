//! Selective preference optimization (arXiv 2408.13518): SimPO's contrast over key tokens alone.
//!
//! `L = -log sigmoid(u(y_w) - u(y_l) - margin)`, `u(y) = gamma / n * sum over key tokens of log pi(y_t | x, y_<t)`.
//!
//! The paper's `n` is `|y| k%`; the authors' code counts the key tokens, which differs by rounding. The paper searches
//! gamma in 2.1 to 2.5; their script has none (that is, 1), and no margin.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, logistic};
use super::simpo::mean_reward;
use super::{Formula, Needs, Outcome, Pair, Response, Tokens, a_number, above_zero, must_be};
use crate::error::Problem;

/// `-log sigmoid(u_w - u_l - margin)`, where `u` is gamma times the mean log-probability of the key tokens. arXiv
/// 2408.13518.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sepo {
    /// Scale of the mean log-probability of the key tokens.
    #[schemars(extend("examples" = [2.0]))]
    pub gamma: f64,
    /// Target margin between the responses, after scaling by gamma.
    #[schemars(extend("examples" = [0.5]))]
    pub margin: f64,
    /// Denominator of the mean over key tokens.
    #[schemars(extend("examples" = [{"response_share": [0.3, 0.3]}]))]
    pub normalizer: Normalizer,
    /// The loss of the authors' script: gamma 1, no margin, normalised by the number of key tokens. The other
    /// settings have no effect.
    #[schemars(extend("examples" = [true]))]
    pub official: bool,
}

/// The denominator of a response's mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// The number of key tokens.
    #[default]
    Selected,
    /// The number of response tokens times these shares, for the chosen and the rejected response: the paper's `|y|
    /// k%`. A response in which all tokens are key tokens is divided by their number.
    ResponseShare(#[schemars(extend("examples" = [[0.3, 0.3]]))] [f64; 2]),
}

impl Default for Sepo {
    fn default() -> Self {
        Self { gamma: 2.0, margin: 0.0, normalizer: Normalizer::default(), official: false }
    }
}

impl Sepo {
    /// Gamma and margin that hold.
    fn scale_and_margin(&self) -> (f64, f64) {
        if self.official { (1.0, 0.0) } else { (self.gamma, self.margin) }
    }

    fn reward(&self, response: &Response, side: usize) -> Reward {
        let (gamma, _) = self.scale_and_margin();
        let key = response.logps.len();
        match self.normalizer {
            Normalizer::ResponseShare(shares) if !self.official && key < response.length => {
                Reward::of_logps(response, vec![gamma / (shares[side] * response.length as f64); key])
            }
            _ => mean_reward(gamma, response),
        }
    }
}

impl Contrast for Sepo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        [self.reward(&pair.chosen, 0), self.reward(&pair.rejected, 1)]
    }

    fn loss(&self, margin: f64) -> Loss {
        logistic(margin - self.scale_and_margin().1, 0.0)
    }
}

impl Formula for Sepo {
    fn needs(&self) -> Needs {
        Needs::policy([Tokens::Key; 2])
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            above_zero("gamma", self.gamma).into_iter().chain(a_number("margin", self.margin)).collect();
        if let Normalizer::ResponseShare(shares) = self.normalizer {
            let share = |share: f64| must_be("normalizer", share, share > 0.0 && share <= 1.0, "in (0, 1]");
            problems.extend(shares.into_iter().find_map(share));
        }
        if self.official && *self != (Self { official: true, ..Self::default() }) {
            let message = "`official: true` has gamma 1, no margin and the selected count";
            problems.push(Problem::at("official", message).help("leave the other settings out"));
        }
        problems
    }
}
