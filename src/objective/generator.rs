//! The generators `h` of Bregman preference optimisation (arXiv 2505.19601): with the model's ratio `R`, the loss is
//! `L_h(R) = h'(R) R - h(R) - h'(1/R)`, constants dropped. Everything is a function of `x = log R`.
//!
//! `lsif` is that identity with `h = (R - 1)^2`; the authors' code has `R^2 - 2 R` there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::{Loss, logistic};
use super::{above_zero, at_least_zero};
use crate::error::Problem;

/// The generator of a Bregman divergence: a word, or a map with one key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Generator {
    /// `log(1 + R)`: logistic regression, which is DPO's.
    Lr,
    /// `R + log R`.
    Kliep,
    /// `R^2 - 2 / R`.
    Lsif,
    /// `R^(lambda + 1) - (lambda + 1) / lambda R^-lambda`, and `kliep` at 0: Basu's power divergence.
    Ba {
        /// The power.
        #[schemars(extend("examples" = [0.5]))]
        lambda: f64,
    },
    /// `R^(lambda + 1) / (s (lambda + 1)) - R^-lambda / (s lambda)`, and `(R + log R) / s` at 0: scaled, so that with `s` 4 and
    /// `lambda` 0 the slope at a ratio of 1 is DPO's.
    Sba {
        /// The power.
        #[schemars(extend("examples" = [0.0]))]
        lambda: f64,
        /// Divisor of the whole.
        #[schemars(extend("examples" = [4.0]))]
        scale: f64,
    },
}

impl Default for Generator {
    fn default() -> Self {
        Self::Sba { lambda: 0.0, scale: 4.0 }
    }
}

impl Generator {
    /// `L_h(e^x)`, and its derivative by `x`.
    pub(super) fn loss(self, x: f64) -> Loss {
        match self {
            Self::Lr => {
                let loss = logistic(-x, 0.0);
                Loss { slope: -loss.slope, ..loss }
            }
            Self::Kliep => Loss { value: x.exp() + x, slope: x.exp() + 1.0 },
            Self::Lsif => {
                let (square, inverse) = ((2.0 * x).exp(), (-x).exp());
                Loss { value: square - 2.0 * inverse, slope: 2.0 * (square + inverse) }
            }
            Self::Ba { lambda: 0.0 } => Self::Kliep.loss(x),
            Self::Ba { lambda } => {
                let (up, down) = powers(lambda, x);
                let more = lambda + 1.0;
                Loss { value: up - more / lambda * down, slope: more * (up + down) }
            }
            Self::Sba { lambda: 0.0, scale } => Loss { value: (x.exp() + x) / scale, slope: (x.exp() + 1.0) / scale },
            Self::Sba { lambda, scale } => {
                let (up, down) = powers(lambda, x);
                Loss { value: (up / (lambda + 1.0) - down / lambda) / scale, slope: (up + down) / scale }
            }
        }
    }

    /// Settings that make no sense, by field `generator`.
    pub(super) fn problems(self) -> impl Iterator<Item = Problem> {
        let (name, lambda, scale) = match self {
            Self::Lr | Self::Kliep | Self::Lsif => ("", None, None),
            Self::Ba { lambda } => ("ba", Some(lambda), None),
            Self::Sba { lambda, scale } => ("sba", Some(lambda), Some(scale)),
        };
        let lambda = lambda.and_then(|lambda| at_least_zero("lambda", lambda));
        let scale = scale.and_then(|scale| above_zero("scale", scale));
        lambda.into_iter().chain(scale).map(move |problem| problem.within(&["generator", name]))
    }
}

/// `R^(lambda + 1)` and `R^-lambda`.
fn powers(lambda: f64, x: f64) -> (f64, f64) {
    (((lambda + 1.0) * x).exp(), (-lambda * x).exp())
}
