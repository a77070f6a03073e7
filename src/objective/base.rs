//! The objectives that others build on: their token weights, their loss of a margin.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contrast::Contrast;
use super::{Dpo, Simpo, word};
use crate::error::Problem;

/// What an objective builds on: a map with one key.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Log-ratios to the reference, summed.
    Dpo(Dpo),
    /// Mean log-probabilities, without a reference.
    Simpo(Simpo),
}

impl Default for Base {
    fn default() -> Self {
        Self::Dpo(Dpo::default())
    }
}

impl Base {
    /// What the name stands for.
    pub(super) fn contrast(&self) -> &dyn Contrast {
        match self {
            Self::Dpo(base) => base,
            Self::Simpo(base) => base,
        }
    }

    /// Settings of the base that make no sense, by field `base`.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let name = word(self);
        self.contrast().problems().into_iter().map(move |problem| problem.within(&["base", &name]))
    }
}
