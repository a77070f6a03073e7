//! The learning rate over time: linear warm-up from 0, then constant, or down along a cosine or a line to 0. Counted as
//! `transformers` counts: step 0 of a warm-up has rate 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine to 0.
    #[default]
    Cosine,
    /// A line to 0.
    Linear,
    /// The full rate to the end.
    Constant,
}

/// A peak and its way there and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Share of the steps that warm up.
    pub warmup: f64,
    /// What follows.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of step `step`, from 0, of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = (self.warmup * steps as f64).ceil();
        let step = step as f64;
        if step < warm {
            return self.peak * step / warm;
        }
        let done = (step - warm) / (steps as f64 - warm).max(1.0);
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - done,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // transformers 5: get_cosine_schedule_with_warmup(AdamW([p], lr=1.0), 2, 8), one scheduler.step() after each step:
    // [0.0, 0.5, 1.0, 0.9330127018922194, 0.75, 0.5, 0.25, 0.06698729810778065]
    #[test]
    fn cosine_is_that_of_transformers() {
        let schedule = Schedule { peak: 1.0, warmup: 0.25, decay: Decay::Cosine };
        let expected = [0.0, 0.5, 1.0, 0.933_012_701_892_219_4, 0.75, 0.5, 0.25, 0.066_987_298_107_780_65];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((schedule.rate(step as u64, 8) - expected).abs() < 1e-12, "{step}");
        }
        let constant = Schedule { peak: 2.0, warmup: 0.0, decay: Decay::Constant };
        assert_eq!([0, 7].map(|step| constant.rate(step, 8)), [2.0; 2]);
        let linear = Schedule { decay: Decay::Linear, ..constant };
        assert_eq!([0, 4].map(|step| linear.rate(step, 8)), [2.0, 1.0]);
    }
}
