//! Token-level Bregman preference optimisation (arXiv 2605.12288), as its two forms share it.
//!
//! Tokens of both responses meet by position, `t = 1..n`, `n` being the shorter length; what lies beyond has no say. With
//! `r_t = log pi(y_t) - log pi_ref(y_t)` and a value `b_t` of the state before the token,
//!
//! `x_t = beta (r_t^l - r_t^w + b_t^l - b_t^w)`, `L = 1/n sum_t ((1 - e) L_h(x_t) + e L_h(-x_t))`,
//!
//! where `L_h` comes from a [`Generator`], and `x_t` is cut off at 30 on both sides.

use super::contrast::log_ratio;
use super::{Generator, Outcome, Pair, Response};

/// Largest logarithm of a ratio.
const LARGEST: f64 = 30.0;
/// Largest difference of centred baselines.
const LARGEST_BASELINE: f64 = 10.0;

/// What both forms are set by.
pub(super) struct Tbpo {
    pub(super) beta: f64,
    pub(super) generator: Generator,
    pub(super) label_smoothing: f64,
    /// Whether differences of state values have their mean taken off, and are cut off at 10 then.
    pub(super) centred: bool,
}

impl Tbpo {
    /// Loss and gradient of one pair. Rewards are beta times the summed log-ratios of the paired tokens.
    pub(super) fn evaluate(&self, pair: &Pair) -> Outcome {
        let Self { beta, generator, label_smoothing: e, centred } = *self;
        let count = pair.chosen.logps.len().min(pair.rejected.logps.len());
        let share = 1.0 / count.max(1) as f64;
        let states = pair.rejected.states.iter().zip(pair.chosen.states);
        let mut states: Vec<f64> = states.map(|(rejected, chosen)| rejected - chosen).collect();
        if centred {
            let mean = states.iter().sum::<f64>() * share;
            states.iter_mut().for_each(|state| *state -= mean);
        }
        let limit = if centred { LARGEST_BASELINE } else { f64::INFINITY };
        let ratios = log_ratio(&pair.rejected).zip(log_ratio(&pair.chosen));
        let (mut loss, mut slopes, mut state_slopes) = (0.0, Vec::new(), Vec::new());
        for ((rejected, chosen), state) in ratios.zip(&states) {
            let x = beta * (rejected - chosen + state.clamp(-limit, limit));
            let [right, flipped] = [x, -x].map(|x| generator.loss(x.clamp(-LARGEST, LARGEST)));
            loss += share * ((1.0 - e) * right.value + e * flipped.value);
            let inside = if x.abs() <= LARGEST { share * beta } else { 0.0 };
            let slope = inside * ((1.0 - e) * right.slope - e * flipped.slope);
            slopes.push(slope);
            state_slopes.push(if state.abs() <= limit { slope } else { 0.0 });
        }
        if centred {
            let mean = state_slopes.iter().sum::<f64>() * share;
            state_slopes.iter_mut().for_each(|slope| *slope -= mean);
        }
        let grad = |response: &Response, slopes: &[f64], sign: f64| -> Vec<f64> {
            let paired = slopes.iter().map(|slope| sign * slope);
            paired.chain(std::iter::repeat(0.0)).take(response.logps.len()).collect()
        };
        let reward = |response: &Response| beta * log_ratio(response).take(count).sum::<f64>();
        Outcome {
            loss,
            chosen_grad: grad(&pair.chosen, &slopes, -1.0),
            rejected_grad: grad(&pair.rejected, &slopes, 1.0),
            state_grads: [grad(&pair.chosen, &state_slopes, -1.0), grad(&pair.rejected, &state_slopes, 1.0)],
            chosen_reward: reward(&pair.chosen),
            rejected_reward: reward(&pair.rejected),
        }
    }
}
