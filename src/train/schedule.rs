//! The learning rate over time: linear warm-up to a peak, then constant, or down along a cosine or a line to 0.
//!
//! With `w` warm-up steps, step `s < w`, counted from 0, has the rate `peak (s + 1) / (w + 1)`, and step `w` the peak. The
//! schedules of `transformers` (`optimization.py`) reach the peak at the same step and are equal from there on, but begin
//! their warm-up at 0: there the first step changes nothing, and a training of one step returns the model that it was given.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learning rate schedules after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine, to 0.
    #[default]
    Cosine,
    /// Linear, to 0.
    Linear,
    /// The peak rate until the end.
    Constant,
}

/// A peak and its way there and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Share of the steps that warm up, rounded up to whole steps.
    pub warmup: f64,
    /// What follows.
    pub decay: Decay,
}

impl Schedule {
    /// How many of `steps` steps warm up.
    pub fn warmup_steps(&self, steps: u64) -> u64 {
        ((self.warmup * steps as f64).ceil() as u64).min(steps)
    }

    /// The rate of step `step`, from 0, of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = self.warmup_steps(steps);
        if step < warm {
            return self.peak * (step + 1) as f64 / (warm + 1) as f64;
        }
        let done = (step - warm) as f64 / (steps - warm).max(1) as f64;
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - done,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }

    /// The rates of the first step, of the step with the highest one, and of the last step of `steps`.
    pub fn rates(&self, steps: u64) -> [f64; 3] {
        let last = steps.saturating_sub(1);
        [0, self.warmup_steps(steps).min(last), last].map(|step| self.rate(step, steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers 5: get_cosine_schedule_with_warmup(AdamW([p], lr=1.0), 2, 8), one scheduler.step() after each step:
    // [0.0, 0.5, 1.0, 0.9330127018922194, 0.75, 0.5, 0.25, 0.06698729810778065]
    #[test]
    fn from_the_peak_on_a_cosine_is_that_of_transformers() {
        let schedule = Schedule { peak: 1.0, warmup: 0.25, decay: Decay::Cosine };
        let transformers = [0.0, 0.5, 1.0, 0.933_012_701_892_219_4, 0.75, 0.5, 0.25, 0.066_987_298_107_780_65];
        for (step, expected) in transformers.into_iter().enumerate().skip(2) {
            assert!((schedule.rate(step as u64, 8) - expected).abs() < 1e-12, "{step}");
        }
        let linear = Schedule { peak: 2.0, warmup: 0.0, decay: Decay::Linear };
        assert_eq!([0, 4].map(|step| linear.rate(step, 8)), [2.0, 1.0]);
    }

    #[test]
    fn a_warm_up_rises_in_equal_steps_and_its_first_one_is_above_0() {
        let schedule = Schedule { peak: 3.0, warmup: 0.25, decay: Decay::Constant };
        assert_eq!([0, 1, 2, 7].map(|step| schedule.rate(step, 8)), [1.0, 2.0, 3.0, 3.0]);
        // One step of which 3 % warm up: all of it does, and yet it trains.
        let short = Schedule { peak: 1.0, warmup: 0.03, decay: Decay::Cosine };
        assert_eq!((short.warmup_steps(1), short.rates(1)), (1, [0.5; 3]));
        assert_eq!(short.rates(0), [1.0; 3]);
    }
}
