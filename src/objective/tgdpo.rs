//! TGDPO (arXiv 2506.14574): DPO in which every token's pull follows its reward.
//!
//! `L = -log sigmoid(sum_t beta (1 + alpha beta r_t) rho_t over y_w - sum_t beta (1 - alpha beta r_t) rho_t over y_l)`,
//! where `rho_t` is the policy's log-ratio to the reference and `r_t` the stored reward, the log-ratio of a finished DPO or
//! SimPO model to its own reference; `beta r_t` is the paper's `rhat_t`.
//!
//! The theory needs weights above 0; the authors' code takes them as they come. `clamp` cuts them off at 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, logistic};
use super::dpo::log_ratio_rewards;
use super::{Formula, Needs, Outcome, Pair, Response, above_zero, at_least_zero};
use crate::error::Problem;

/// DPO with token weights `1 + alpha beta reward` on the chosen and `1 - alpha beta reward` on the rejected response.
/// arXiv 2506.14574.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tgdpo {
    /// Strength of the pull towards the reference. Also scales the stored rewards.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Influence of the rewards; 0 is DPO.
    #[schemars(extend("examples" = [0.5]))]
    pub alpha: f64,
    /// Clamps weights at 0. The authors' code allows negative weights, which push a token in the opposite direction.
    #[schemars(extend("examples" = [true]))]
    pub clamp: bool,
}

impl Default for Tgdpo {
    fn default() -> Self {
        Self { beta: 0.1, alpha: 0.5, clamp: false }
    }
}

impl Contrast for Tgdpo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        let weights = |response: &Response, sign: f64| -> Vec<f64> {
            let weight = |reward: &f32| 1.0 + sign * self.alpha * self.beta * f64::from(*reward);
            let kept = |weight: f64| if self.clamp { weight.max(0.0) } else { weight };
            response.rewards.iter().map(weight).map(kept).collect()
        };
        let [chosen, rejected] = log_ratio_rewards(self.beta, pair);
        [
            chosen.weighted(weights(&pair.chosen, 1.0).into_iter()),
            rejected.weighted(weights(&pair.rejected, -1.0).into_iter()),
        ]
    }

    fn loss(&self, margin: f64) -> Loss {
        logistic(margin, 0.0)
    }
}

impl Formula for Tgdpo {
    fn needs(&self) -> Needs {
        Needs::all().and_reference().and_rewards()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().chain(at_least_zero("alpha", self.alpha)).collect()
    }
}
