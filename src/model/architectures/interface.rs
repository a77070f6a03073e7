//! What an architecture implements: [`Architecture`] for its config.json, [`Body`] for its layers.

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Result;
use crate::model::batch::PackedBatch;
use crate::model::layers::cache::LayerCache;
use crate::model::layers::context::LayerContext;
use crate::model::layers::parameters::Parameters;
use crate::model::layers::weight::Head;
use crate::model::sizes::{Names, Sizes};

/// A model as config.json describes it.
pub trait Architecture {
    /// The layers of the model.
    type Body: Body;

    /// The names of its tensors.
    const NAMES: Names;

    /// Its sizes.
    fn sizes(&self) -> Sizes;

    /// The body with the parameters of a checkpoint, or new ones.
    ///
    /// # Errors
    /// Options that are inconsistent or not supported; tensors that are missing or have another shape.
    fn body(&self, parameters: &mut Parameters) -> Result<Self::Body>;
}

/// The layers of a model, from token ids to the hidden states that the output head takes.
pub trait Body {
    /// The output head, `[vocabulary, width]`.
    fn head(&self) -> Head;

    /// Whether the head is the table of embeddings.
    fn is_tied(&self) -> bool;
    /// The shape of the output head. [`Self::head`] may compute the head; this reads the shape.
    fn head_shape(&self) -> [usize; 2];

    /// Layers between the embeddings and the final norm.
    fn layers(&self) -> usize;

    /// The largest number of positions; `None` if positions are computed, not learned.
    fn position_limit(&self) -> Option<usize> {
        None
    }

    /// The properties of the batch that every layer needs.
    fn context(&self, batch: &PackedBatch, device: &Device) -> LayerContext;

    /// The input of the first layer, `[batch.len(), width]`.
    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2>;

    /// The output of layer `index` for the input `x`, both `[rows, width]`. With a cache, rows attend to their sequence in it and are
    /// appended to it.
    fn layer(&self, index: usize, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2>;

    /// The final norm, `[rows, width]` to `[rows, width]`. It is applied to the needed rows only.
    fn norm(&self, hidden: Tensor<2>) -> Tensor<2>;
}

/// The largest value of a size in config.json; the product of three sizes fits 64 bits.
const LARGEST_SIZE: u64 = 1 << 20;

/// Parses config.json. Its fields `sizes` are limited, so that arithmetic with them cannot overflow.
///
/// # Errors
/// A field that is 0, too large, missing or of another type.
pub(super) fn parse<C: DeserializeOwned>(config: &Value, sizes: &[&str]) -> Result<C, String> {
    for name in sizes {
        match config.get(name).and_then(Value::as_u64) {
            Some(0) => return Err(format!("{name} is 0")),
            Some(size) if size > LARGEST_SIZE => return Err(format!("{name} {size} is above {LARGEST_SIZE}")),
            _ => {}
        }
    }
    C::deserialize(config).map_err(|error| error.to_string())
}
