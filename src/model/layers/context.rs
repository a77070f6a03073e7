//! The properties of a batch that every layer needs.

use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor};

use super::rope::Angles;
use crate::kernels::attention::Stream;

/// The properties of a batch that every layer needs.
pub struct LayerContext {
    /// Which rows attend to which.
    pub segments: Arc<Stream>,
    /// The angles of rotary positions, if the model has them.
    pub angles: Option<Angles>,
    /// The type of the numbers between the products of a layer; the residual stream is f32.
    pub activations: FloatDType,
}

impl LayerContext {
    /// Applies rotary positions to every head of every row: x `[rows, heads * head_dim]`.
    pub fn rotate(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.angles {
            Some(angles) => angles.rotate(x),
            None => x,
        }
    }
}
