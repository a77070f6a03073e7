//! TIS-DPO (arXiv 2410.04350): DPO on importance-weighted sums,
//! `L = -log sigmoid(beta sum_t w_t rho_t over y_w - beta sum_t w_t rho_t over y_l)`, where `rho_t` is the policy's log-ratio
//! to the reference and `w_t` comes from the stored reward: more for good tokens of the chosen response and for bad ones
//! of the rejected response.
//!
//! The paper estimates rewards as the log-ratio of a model trained with DPO and one trained with DPO on flipped labels;
//! `score` with those two as oracle and reference makes the same columns. The authors' code rounds rewards to two decimals
//! and maps their ranks; the clipped exponential is the paper's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, logistic};
use super::dpo::log_ratio_rewards;
use super::{Formula, Needs, Outcome, Pair, above_zero, at_least_zero, must_be};
use crate::error::Problem;

/// DPO with token weights derived from the rewards, with the opposite sign on the rejected response. arXiv
/// 2410.04350.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TisDpo {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// How rewards become weights.
    #[schemars(extend("examples" = [{"clip": {"limit": 1.0, "range": [0.5, 1.5]}}]))]
    pub weights: Weights,
}

/// How rewards become weights: a map with one key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Weights {
    /// By rank: the lowest reward of a response gets the first weight and the highest the second, with equal steps
    /// between them. Ties share their mean. Rewards of the rejected response are negated first.
    Rank {
        /// Weights of the lowest and of the highest rank.
        #[schemars(extend("examples" = [[0.7, 1.3]]))]
        range: [f64; 2],
    },
    /// Rewards are clipped at `-limit` and `limit`, and mapped linearly.
    Clip {
        /// Largest absolute reward.
        #[schemars(extend("examples" = [1.0], "x-unit" = "nats"))]
        limit: f64,
        /// Weights at `-limit` and at `limit`.
        #[schemars(extend("examples" = [[0.5, 1.5]]))]
        range: [f64; 2],
    },
    /// `exp(mu clamp(reward))`, with `-mu` on the rejected response.
    Exp {
        /// Growth of the weights with the rewards.
        #[schemars(extend("examples" = [1.0]))]
        mu: f64,
        /// Range that rewards are clamped to, before `mu` is applied.
        #[schemars(extend("examples" = [[-0.5, 1.5]], "x-unit" = "nats"))]
        clamp: [f64; 2],
    },
}

impl Default for TisDpo {
    fn default() -> Self {
        Self { beta: 0.1, weights: Weights::Rank { range: [0.7, 1.3] } }
    }
}

/// The value that lies `share` of the way through `range`.
fn between([low, high]: [f64; 2], share: f64) -> f64 {
    low + (high - low) * share
}

/// Ranks from 0 to 1; ties share their mean rank, and a single value is in the middle.
fn ranks(values: &[f64]) -> impl Iterator<Item = f64> {
    let mut order = values.to_vec();
    order.sort_by(f64::total_cmp);
    let last = (values.len().max(2) - 1) as f64;
    let alone = values.len() == 1;
    values.iter().map(move |value| {
        let below = order.partition_point(|other| other.total_cmp(value).is_lt());
        let up_to = order.partition_point(|other| other.total_cmp(value).is_le());
        if alone { 0.5 } else { (below + up_to - 1) as f64 / 2.0 / last }
    })
}

impl Weights {
    /// The weights of a response's tokens; `sign` is -1 for the rejected one.
    fn of(self, rewards: &[f32], sign: f64) -> Vec<f64> {
        // Adding zero makes -0 a 0: they are ties.
        let signed = rewards.iter().map(|reward| sign * f64::from(*reward) + 0.0);
        match self {
            Self::Rank { range } => ranks(&signed.collect::<Vec<_>>()).map(|rank| between(range, rank)).collect(),
            Self::Clip { limit, range } => {
                signed.map(|reward| between(range, reward.clamp(-limit, limit) / (2.0 * limit) + 0.5)).collect()
            }
            Self::Exp { mu, clamp: [low, high] } => {
                rewards.iter().map(|reward| (sign * mu * f64::from(*reward).clamp(low, high)).exp()).collect()
            }
        }
    }

    fn problems(self) -> Vec<Problem> {
        let rising = |field: &str, [low, high]: [f64; 2], least: f64, rule: &str| {
            let holds = least <= low && low <= high && high.is_finite();
            (!holds).then(|| Problem::at(field, format!("{field} is [{low}, {high}]; it must be {rule}")))
        };
        let all_zero =
            |range: [f64; 2]| must_be("range", range[1], range[1] != 0.0, "above 0 at its end: no token has a weight");
        let weights = |range| {
            rising("range", range, 0.0, "two numbers of 0 or more, the lower one first").or_else(|| all_zero(range))
        };
        let (name, problems) = match self {
            Self::Rank { range } => ("rank", [weights(range), None]),
            Self::Clip { limit, range } => ("clip", [above_zero("limit", limit), weights(range)]),
            Self::Exp { mu, clamp } => {
                let clamp = rising("clamp", clamp, f64::MIN, "two numbers, the lower one first");
                ("exp", [at_least_zero("mu", mu), clamp])
            }
        };
        problems.into_iter().flatten().map(|problem| problem.within(&["weights", name])).collect()
    }
}

impl Contrast for TisDpo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        let [chosen, rejected] = log_ratio_rewards(self.beta, pair);
        [
            chosen.weighted(self.weights.of(pair.chosen.rewards, 1.0).into_iter()),
            rejected.weighted(self.weights.of(pair.rejected.rewards, -1.0).into_iter()),
        ]
    }

    fn loss(&self, margin: f64) -> Loss {
        logistic(margin, 0.0)
    }
}

impl Formula for TisDpo {
    fn needs(&self) -> Needs {
        Needs::all().and_reference().and_rewards()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().chain(self.weights.problems()).collect()
    }
}
