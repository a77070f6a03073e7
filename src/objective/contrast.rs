//! What pairwise objectives share: a reward of each response that is linear in its log-probabilities, and a loss of the
//! margin between the two.

use super::{Formula, Outcome, Pair, Response, must_be};
use crate::error::Problem;

/// A response's implicit reward: `sum_t weight_t gain_t`.
pub(super) struct Reward {
    /// Its derivative with respect to every log-probability.
    pub(super) weights: Vec<f64>,
    /// Log-probabilities, less the reference's where there is one.
    gains: Vec<f64>,
}

impl Reward {
    /// `sum_t weight_t log pi(y_t)`.
    pub(super) fn of_logps(response: &Response, weights: Vec<f64>) -> Self {
        Self { weights, gains: response.logps.to_vec() }
    }

    /// `sum_t weight_t (log pi(y_t) - log pi_ref(y_t))`.
    pub(super) fn of_ratios(response: &Response, weights: Vec<f64>) -> Self {
        Self { weights, gains: log_ratio(response).collect() }
    }

    /// The same reward with every token's weight multiplied by its factor.
    pub(super) fn weighted(mut self, factors: impl Iterator<Item = f64>) -> Self {
        self.weights.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
        self
    }

    fn value(&self) -> f64 {
        self.weights.iter().zip(&self.gains).map(|(weight, gain)| weight * gain).sum()
    }
}

/// `log pi(y_t) - log pi_ref(y_t)` of every token.
pub(super) fn log_ratio<'a>(response: &Response<'a>) -> impl Iterator<Item = f64> + use<'a> {
    response.logps.iter().zip(response.reference).map(|(logp, of_ref)| logp - f64::from(*of_ref))
}

/// The loss of a margin, and its derivative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Loss {
    pub(super) value: f64,
    pub(super) slope: f64,
}

/// An objective that sees no more of a pair than the margin between two linear rewards.
pub(super) trait Contrast: Formula {
    /// The rewards of the chosen and of the rejected response.
    fn rewards(&self, pair: &Pair) -> [Reward; 2];

    /// What `margin`, the chosen reward minus the rejected one, costs.
    fn loss(&self, margin: f64) -> Loss;

    /// Loss and gradient of one pair.
    fn contrast(&self, pair: &Pair) -> Outcome {
        let rewards = self.rewards(pair);
        let loss = self.loss(margin(&rewards));
        outcome(&rewards, loss)
    }
}

/// Chosen minus rejected.
pub(super) fn margin([chosen, rejected]: &[Reward; 2]) -> f64 {
    chosen.value() - rejected.value()
}

/// The chain rule from the margin to the log-probabilities.
pub(super) fn outcome([chosen, rejected]: &[Reward; 2], loss: Loss) -> Outcome {
    Outcome {
        loss: loss.value,
        chosen_grad: chosen.weights.iter().map(|weight| loss.slope * weight).collect(),
        rejected_grad: rejected.weights.iter().map(|weight| -loss.slope * weight).collect(),
        state_grads: Default::default(),
        chosen_reward: chosen.value(),
        rejected_reward: rejected.value(),
    }
}

/// The logistic loss, for labels of which the share `flipped` is wrong:
/// `-(1 - flipped) log sigmoid(margin) - flipped log sigmoid(-margin)`.
pub(super) fn logistic(margin: f64, flipped: f64) -> Loss {
    Loss {
        value: -(1.0 - flipped) * log_sigmoid(margin) - flipped * log_sigmoid(-margin),
        slope: flipped * sigmoid(margin) - (1.0 - flipped) * sigmoid(-margin),
    }
}

/// The hinge loss: `max(0, room - margin)`.
pub(super) fn hinge(margin: f64, room: f64) -> Loss {
    if margin < room { Loss { value: room - margin, slope: -1.0 } } else { Loss { value: 0.0, slope: 0.0 } }
}

/// `value` spread evenly over `count` tokens. A side without tokens has no say.
pub(super) fn spread(value: f64, count: usize) -> Vec<f64> {
    vec![value / count.max(1) as f64; count]
}

/// `log sigmoid(x)` without overflow.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `sigmoid(x)` without overflow.
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// A share of wrong labels must leave more right ones.
pub(super) fn share_of_wrong_labels(field: &str, value: f64) -> Option<Problem> {
    must_be(field, value, (0.0..0.5).contains(&value), "in [0, 0.5)")
}
