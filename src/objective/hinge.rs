//! The hinge loss of SLiC (arXiv 2305.10425) on DPO's rewards, as RSO (arXiv 2309.06657) and TRL have it:
//! `L = max(0, 1 - beta d)`, where `d` is DPO's difference of log-ratios.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Contrast, Loss, Reward, hinge};
use super::dpo::log_ratio_rewards;
use super::{Formula, Needs, Outcome, Pair, above_zero};
use crate::error::Problem;

/// `max(0, 1 - beta d)`, with DPO's `d`. arXiv 2305.10425, 2309.06657.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hinge {
    /// Strength of the pull towards the reference. Pairs with a margin above `1 / beta` nats have no gradient.
    #[schemars(extend("examples" = [0.1], "x-unit" = "1/nat"))]
    pub beta: f64,
}

impl Default for Hinge {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Contrast for Hinge {
    fn rewards(&self, pair: &Pair) -> [Reward; 2] {
        log_ratio_rewards(self.beta, pair)
    }

    fn loss(&self, margin: f64) -> Loss {
        hinge(margin, 1.0)
    }
}

impl Formula for Hinge {
    fn needs(&self) -> Needs {
        Needs::all().and_reference()
    }

    fn evaluate(&self, pair: &Pair) -> Outcome {
        self.contrast(pair)
    }

    fn problems(&self) -> Vec<Problem> {
        above_zero("beta", self.beta).into_iter().collect()
    }
}
