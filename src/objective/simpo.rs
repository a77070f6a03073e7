//! SimPO (arXiv 2405.14734): `L = -(1 - e) log sigmoid(m) - e log sigmoid(-m)` with
//! `m = beta (mean logp_w - mean logp_l) - margin`, means over all tokens of a response.
//!
//! The paper writes the margin as `gamma`; its tables give `gamma / beta`, and TRL's `simpo_gamma` is that too, divided
//! before it multiplies by beta: `margin = simpo_gamma` in TRL's spelling `beta (d - simpo_gamma / beta)`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, logistic, share_of_wrong_labels, spread};
use super::{Formula, Needs, Outcome, Pair, Response, a_number, above_zero};
use crate::error::Problem;

/// `-log sigmoid(beta (mean logp_w - mean logp_l) - margin)`. arXiv 2405.14734.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Simpo {
    /// Scale of the mean log-probabilities.
    #[schemars(extend("examples" = [2.0]))]
    pub beta: f64,
    /// Target margin between the rewards, after scaling by beta.
    #[schemars(extend("examples" = [1.0]))]
    pub margin: f64,
    /// Probability that a preference label is wrong, in [0, 0.5).
    #[schemars(extend("examples" = [0.1], "x-unit" = "probability"))]
    pub label_smoothing: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 2.0, margin: 1.0, label_smoothing: 0.0 }
    }
}

/// `scale` times the mean log-probability of the tokens given.
pub(super) fn mean_reward(scale: f64, response: &Response) -> Reward {
    Reward::of_logps(response, spread(scale, response.logps.len()))
}

impl Contrast for Simpo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        [&pair.chosen, &pair.rejected].map(|response| mean_reward(self.beta, response))
    }

    fn loss(&self, margin: f64) -> Loss {
        logistic(margin - self.margin, self.label_smoothing)
    }
}

impl Formula for Simpo {
    fn needs(&self) -> Needs {
        Needs::all()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let smoothing = share_of_wrong_labels("label_smoothing", self.label_smoothing);
        [above_zero("beta", self.beta), a_number("margin", self.margin), smoothing].into_iter().flatten().collect()
    }
}
