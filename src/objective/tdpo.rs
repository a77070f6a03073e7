//! Token-level DPO (arXiv 2404.11999): DPO that counts how far the policy drifts from the reference beside the answers, too.
//!
//! `m(y) = sum_t (log pi(y_t) - log pi_ref(y_t))`, and `K(y) = sum_t KL(pi_ref(. | y_<t) || pi(. | y_<t))`, the sequential
//! divergence, over the whole vocabulary at every token.
//!
//! TDPO1: `L = -log sigmoid(beta (m_w - m_l - (K_l - K_w)))`
//!
//! TDPO2: `L = -log sigmoid(beta (m_w - m_l - alpha (K_l - sg(K_w))))`, where no gradient flows through `sg`.
//!
//! The authors' setting `if_tdpo2: false` stands in their file for TDPO2 as well, so that their command runs TDPO1.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{log_ratio, logistic};
use super::{Formula, Needs, Outcome, Pair, Response, above_zero, at_least_zero};
use crate::error::Problem;

/// `-log sigmoid(beta (m_w - m_l - (K_l - K_w)))`, where `m` is the summed log-ratio to the reference and `K` the
/// summed divergence from it. arXiv 2404.11999.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tdpo1 {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
}

impl Default for Tdpo1 {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

/// `-log sigmoid(beta (m_w - m_l - alpha (K_l - K_w)))`, without a gradient through `K_w`, the divergence on the
/// chosen response. arXiv 2404.11999.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tdpo2 {
    /// Strength of the pull towards the reference.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
    /// Influence of the divergences; 0 is DPO.
    #[schemars(extend("examples" = [0.5]))]
    pub alpha: f64,
}

impl Default for Tdpo2 {
    fn default() -> Self {
        Self { beta: 0.1, alpha: 0.5 }
    }
}

/// Loss and gradient with rewards `beta (m + alpha K)`.
fn evaluate(beta: f64, alpha: f64, chosen_divergence_trains: bool, pair: &Pair) -> Outcome {
    let reward = |response: &Response| {
        let divergence: f64 = response.states.iter().sum();
        beta * (log_ratio(response).sum::<f64>() + alpha * divergence)
    };
    let (chosen_reward, rejected_reward) = (reward(&pair.chosen), reward(&pair.rejected));
    let loss = logistic(chosen_reward - rejected_reward, 0.0);
    let slopes = |response: &Response, slope: f64| vec![slope; response.logps.len()];
    let slope = beta * loss.slope;
    let chosen_state = if chosen_divergence_trains { alpha * slope } else { 0.0 };
    Outcome {
        loss: loss.value,
        chosen_grad: slopes(&pair.chosen, slope),
        rejected_grad: slopes(&pair.rejected, -slope),
        state_grads: [slopes(&pair.chosen, chosen_state), slopes(&pair.rejected, -alpha * slope)],
        chosen_reward,
        rejected_reward,
    }
}

impl Formula for Tdpo1 {
    fn needs(&self) -> Needs {
        Needs::all().and_divergences()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        evaluate(self.beta, 1.0, true, pair)
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().collect()
    }
}

impl Formula for Tdpo2 {
    fn needs(&self) -> Needs {
        Needs::all().and_divergences()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        evaluate(self.beta, self.alpha, false, pair)
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().chain(at_least_zero("alpha", self.alpha)).collect()
    }
}
