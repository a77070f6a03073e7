//! What an architecture implements: [`Architecture`] for its config.json, [`Body`] for what computes.

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Result;
use crate::model::batch::PackedBatch;
use crate::model::layers::cache::LayerCache;
use crate::model::layers::context::Setting;
use crate::model::layers::parameters::Parameters;
use crate::model::layers::weight::Head;
use crate::model::sizes::{Names, Sizes};

/// One model as its config.json describes it.
pub trait Architecture {
    /// What computes.
    type Body: Body;

    /// The names of its tensors.
    const NAMES: Names;

    /// Its sizes.
    fn sizes(&self) -> Sizes;

    /// The body with the parameters of a checkpoint, or new ones.
    ///
    /// # Errors
    /// Options that contradict each other or are not supported; tensors that are missing or of another shape.
    fn body(&self, parameters: &mut Parameters) -> Result<Self::Body>;
}

/// A model's layers, from token ids to the rows that the output head takes.
pub trait Body {
    /// The output head, `[vocabulary, width]`.
    fn head(&self) -> Head;

    /// Layers between the embeddings and the final norm.
    fn layers(&self) -> usize;

    /// The longest sequence that it can take; none where positions are computed.
    fn position_limit(&self) -> Option<usize> {
        None
    }

    /// What every layer needs to know of the batch.
    fn setting(&self, batch: &PackedBatch, device: &Device) -> Setting;

    /// The first layer's input, `[batch.len(), width]`.
    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2>;

    /// The output of layer `index` for its input `x`, both `[rows, width]`; with a cache, rows see what it holds of their
    /// sequence.
    fn layer(&self, index: usize, x: Tensor<2>, setting: &Setting, kept: Option<&mut LayerCache>) -> Tensor<2>;

    /// The final norm, `[rows, width]` to `[rows, width]`. It runs on the rows that the head needs and no others.
    fn norm(&self, hidden: Tensor<2>) -> Tensor<2>;
}

/// The largest value of a size in config.json. Products of three stay within 64 bits.
const LARGEST_SIZE: u64 = 1 << 20;

/// Reads config.json, whose fields `sizes` must not be above a limit.
///
/// # Errors
/// The field that is too large, missing or of another type.
pub(super) fn parse<C: DeserializeOwned>(config: &Value, sizes: &[&str]) -> Result<C, String> {
    for name in sizes {
        if let Some(size) = config.get(name).and_then(Value::as_u64).filter(|size| *size > LARGEST_SIZE) {
            return Err(format!("{name} {size} is above {LARGEST_SIZE}"));
        }
    }
    C::deserialize(config).map_err(|error| error.to_string())
}
