//! Selective preference optimization (arXiv 2408.13518): SimPO's contrast over key tokens alone.
//!
//! `u(y) = gamma / |S| * sum over key tokens of log pi(y_i | x, y_<i)`, `L = -log sigmoid(u(y_w) - u(y_l) - margin)`.
//! `|S|` is the number of key tokens, as in the authors' code; the paper's `|y| k%` differs from it by rounding. The
//! authors' script has gamma 1 and no margin; the paper searches gamma in 2.1 to 2.5.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::simpo::contrast;
use super::{Outcome, Pair};

/// The contrastive loss on key tokens, without a reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sepo {
    /// Scale of the mean log-probability of the key tokens.
    pub gamma: f64,
    /// How far the chosen response should lead, after scaling by gamma.
    pub margin: f64,
}

impl Default for Sepo {
    fn default() -> Self {
        Self { gamma: 2.0, margin: 0.0 }
    }
}

impl Sepo {
    pub(super) fn evaluate(self, pair: &Pair) -> Outcome {
        contrast(self.gamma, self.margin, pair)
    }
}
