//! Direct preference optimization (arXiv 2305.18290), with label smoothing (cDPO) or in the robust form (arXiv 2403.00409):
//!
//! `L = -(1 - e) log sigmoid(m) - e log sigmoid(-m)`, or, robust,
//! `L = (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)`, where `m = r(y_w) - r(y_l)` and
//! `r(y) = beta sum_t (log pi(y_t) - log pi_ref(y_t))`.
//!
//! The robust form is an unbiased estimate of the loss on clean labels when the share `e` of the labels is flipped; cDPO
//! aims at a policy that is as unsure as the labels are. TRL's `sigmoid` loss ignores `label_smoothing`, its `robust` does not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, logistic, share_of_wrong_labels};
use super::{Formula, Needs, Outcome, Pair, above_zero};
use crate::error::Problem;

/// `-log sigmoid(beta d)`, where `d` is the summed log-ratio of policy and reference on the chosen response minus
/// that on the rejected response. arXiv 2305.18290; robust form arXiv 2403.00409.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Probability that a preference label is wrong, in [0, 0.5).
    #[schemars(extend("examples" = [0.1], "x-unit" = "probability"))]
    pub label_smoothing: f64,
    /// Corrects for label noise (robust DPO) instead of smoothing the labels (conservative DPO).
    #[schemars(extend("examples" = [true]))]
    pub robust: bool,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, robust: false }
    }
}

/// `beta sum_t (log pi(y_t) - log pi_ref(y_t))` of both responses.
pub(super) fn log_ratio_rewards(beta: f64, pair: &Pair) -> [Reward; 2] {
    [&pair.chosen, &pair.rejected].map(|response| Reward::of_ratios(response, vec![beta; response.logps.len()]))
}

impl Contrast for Dpo {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        log_ratio_rewards(self.beta, pair)
    }

    fn loss(&self, margin: f64) -> Loss {
        let e = self.label_smoothing;
        if !self.robust {
            return logistic(margin, e);
        }
        let (right, flipped) = (logistic(margin, 0.0), logistic(margin, 1.0));
        let unbiased = |right: f64, flipped: f64| ((1.0 - e) * right - e * flipped) / (1.0 - 2.0 * e);
        Loss { value: unbiased(right.value, flipped.value), slope: unbiased(right.slope, flipped.slope) }
    }
}

impl Formula for Dpo {
    fn needs(&self) -> Needs {
        Needs::all().and_reference()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        let smoothing = share_of_wrong_labels("label_smoothing", self.label_smoothing);
        above_zero("beta", self.beta).into_iter().chain(smoothing).collect()
    }
}
