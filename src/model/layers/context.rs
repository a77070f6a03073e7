//! What every layer needs to know of a batch.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::rope::Angles;
use crate::kernels::attention::Segment;

/// What every layer needs to know of a batch.
pub struct Setting {
    /// Who sees whom.
    pub segments: Arc<[Segment]>,
    /// Rotations by position, where the model has them.
    pub angles: Option<Angles>,
}

impl Setting {
    /// Turns every head of every row: x `[rows, heads * head_dim]`.
    pub fn turn(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.angles {
            Some(angles) => angles.turn(x),
            None => x,
        }
    }
}
