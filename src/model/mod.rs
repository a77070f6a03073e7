//! Causal language models: from a Hugging Face folder or a configuration to token log-probabilities, and back to a
//! folder.
//!
//! ```text
//! ModelSource --load--> CausalLm --token_logps(PackedBatch)--> one log-probability per needed token
//! ```
//!
//! One file an architecture, fields spelt as in the checkpoint. What burn does slowly is in [`kernels`]. Nothing here
//! knows about columns or files of data.

pub mod chat_template;
pub mod device;
pub mod folder;
pub mod kernels;
pub mod layers;
pub mod llama;
pub mod packed;
pub mod precision;
pub mod score;
pub mod source;
pub mod tokenizer;
pub mod weights;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use crate::error::{Error, Result};

pub use chat_template::{ChatTemplate, Message, Template};
pub use device::DeviceSpec;
use llama::Llama;
pub use packed::{Needed, PackedBatch, Response};
pub use precision::Precision;
pub use score::Scorer;
pub use source::{ModelSource, Weights};
pub use tokenizer::Tokenizer;
use weights::Parameters;

/// A causal language model of any supported architecture.
#[derive(Module, Debug)]
pub enum CausalLm {
    /// Llama 2 and 3, TinyLlama, SmolLM.
    Llama(Llama),
}

impl CausalLm {
    /// Reads or initialises the model on `device`. Every tensor of the checkpoint must be used, none may be missing.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let config = source.config()?;
        let mut parameters = Parameters::open(source, &config, device)?;
        let architecture = config.get("model_type").and_then(|kind| kind.as_str()).unwrap_or_default();
        let model = match architecture {
            "llama" => Self::Llama(Llama::new(llama::Config::parse(&config, source)?, &mut parameters)?),
            "" => return Err(Error::model(source, "config.json has no model_type; supported: llama")),
            other => {
                return Err(Error::model(source, format!("model_type `{other}` is not supported; supported: llama")));
            }
        };
        parameters.finish()?;
        Ok(model)
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(model) => model.vocab_size(),
        }
    }

    /// The longest sequence that the positions were made for.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(model) => model.max_positions(),
        }
    }

    /// Log-probabilities `[batch.targets.len()]` of the batch's needed tokens, in the batch's order.
    ///
    /// All ids must be smaller than [`Self::vocab_size`].
    pub fn token_logps(&self, batch: &PackedBatch, device: &Device) -> Tensor<1> {
        let rows = TensorData::new(batch.rows.clone(), [batch.rows.len()]);
        let rows = Tensor::<1, Int>::from_data(rows, device);
        let targets: Arc<[i32]> = batch.targets.as_slice().into();
        match self {
            Self::Llama(model) => {
                let hidden = model.hidden(batch, device);
                kernels::token_logps::token_logps(model.norm(hidden.select(0, rows)), model.head(), targets)
            }
        }
    }

    /// Calls `visit` with every parameter's checkpoint name and tensor, flattened, in a fixed order.
    pub fn for_each_parameter(&self, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        match self {
            Self::Llama(model) => weights::for_each(model, visit),
        }
    }

    /// Takes every trained parameter's gradient out of `gradients`: checkpoint name and flat values.
    pub fn take_gradients(&self, gradients: &mut Gradients, take: impl FnMut(&str, Tensor<1>)) {
        match self {
            Self::Llama(model) => weights::take_gradients(model, gradients, take),
        }
    }

    /// Replaces every parameter by what `replace` makes of its checkpoint name and tensor.
    pub fn map_parameters(self, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        match self {
            Self::Llama(model) => Self::Llama(weights::map(model, replace)),
        }
    }
}
