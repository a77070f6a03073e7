//! Causal language models: from a Hugging Face folder or a configuration to token log-probabilities, and back to a
//! folder.
//!
//! ```text
//! ModelSource --load--> CausalLm --token_logps(PackedBatch)--> one log-probability per needed token
//! ```
//!
//! An adapter on the source is merged into the weights ([`CausalLm::load`]) or trains above them
//! ([`CausalLm::load_adapted`]). One file an architecture, fields spelt as in the checkpoint. What burn does slowly is
//! in [`kernels`]. Nothing here knows about columns or files of data.

pub mod adapter;
pub mod baseline;
pub mod chat_template;
mod checkpoint;
pub mod cost;
pub mod decoder;
mod description;
pub mod device;
pub mod folder;
pub mod generate;
pub mod gpt2;
pub mod gpt_neox;
pub mod kernels;
pub mod layers;
pub mod llama;
pub mod lora;
pub mod mistral;
mod overlay;
pub mod packed;
pub mod pass;
pub mod precision;
pub mod qwen2;
pub mod qwen3;
pub mod rope;
pub mod score;
pub mod source;
pub mod tokenizer;
mod trunk;
pub mod weight;
pub mod weights;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

use adapter::Stored;
pub use baseline::Baseline;
pub use chat_template::{ChatTemplate, Message, Rendered, Template};
use decoder::Decoder;
pub use device::DeviceSpec;
pub use generate::Generator;
use generate::KvCache;
use gpt_neox::GptNeoX;
use gpt2::Gpt2;
pub use kernels::token_kl::Compared;
pub use lora::Lora;
use overlay::{Overlay, Training};
pub use packed::{Needed, PackedBatch, Response};
pub use pass::{Memory, Pass};
pub use precision::Precision;
pub use score::Scorer;
pub use source::{ModelSource, Weights};
pub use tokenizer::Tokenizer;
use weight::Head;
pub use weight::Kept;
use weights::Parameters;

/// A causal language model of any supported architecture.
#[derive(Module, Debug)]
pub enum CausalLm {
    /// Llama, Mistral, Qwen2, Qwen3.
    Decoder(Decoder),
    /// GPT-NeoX, Pythia.
    GptNeoX(GptNeoX),
    /// GPT-2.
    Gpt2(Gpt2),
}

/// The supported `model_type`s, and what config.json's `architectures` calls them.
const ARCHITECTURES: [(&str, &str); 6] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
];

impl CausalLm {
    /// Reads or initialises the model on `device`, with the source's adapter merged into it. Every tensor of the
    /// checkpoint must be used, none may be missing.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        Self::frozen(source, Kept::Plain, device)
    }

    /// As [`Self::load`], with the weights of all products `kept` in some other way, which does not train.
    pub fn frozen(source: &ModelSource, kept: Kept, device: &Device) -> Result<Self> {
        let stored = source.adapter_folder().map(Stored::open).transpose()?;
        Self::load_with(source, stored.map_or(Overlay::Nothing, Overlay::Merged), kept, device)
    }

    /// The frozen model with adapters that train: those of the source, else new ones from `seed`.
    pub fn load_adapted(source: &ModelSource, lora: &Lora, seed: u64, device: &Device) -> Result<Self> {
        if source.base_folder()?.is_none() && !lora.merge {
            let message =
                "lora: adapters must name the folder of their base, and this model has none; set `merge: true`";
            return Err(Error::model(source, message));
        }
        let start = source.adapter_folder().map(Stored::open).transpose()?;
        let layers = trunk::layers(&source.config()?);
        let training = Training::new(source.to_string(), lora.clone(), layers, seed, start)?;
        Self::load_with(source, Overlay::Trained(training), Kept::Plain, device)
    }

    fn load_with(source: &ModelSource, overlay: Overlay, kept: Kept, device: &Device) -> Result<Self> {
        let config = source.config()?;
        let mut parameters = Parameters::open(source, &config, overlay, kept, device)?;
        let model = Self::new(&config, &mut parameters)?;
        parameters.finish()?;
        Ok(model)
    }

    fn new(config: &Value, parameters: &mut Parameters) -> Result<Self> {
        if config.get("quantization_config").is_some_and(|quantization| !quantization.is_null()) {
            return Err(parameters.wrong_config("quantization_config: quantised checkpoints are not supported"));
        }
        let described = |parsed: Result<decoder::Config, String>, parameters: &mut Parameters| {
            let config = parsed.map_err(|message| parameters.wrong_config(&message))?;
            Ok(Self::Decoder(Decoder::new(&config, parameters)?))
        };
        match config.get("model_type").and_then(Value::as_str) {
            Some("llama") => described(parse(config, llama::Config::decoder), parameters),
            Some("mistral") => described(parse(config, mistral::Config::decoder), parameters),
            Some("qwen2") => described(parse(config, qwen2::Config::decoder).flatten(), parameters),
            Some("qwen3") => described(parse(config, qwen3::Config::decoder).flatten(), parameters),
            Some("gpt_neox") => {
                let config = parse(config, |config| config).map_err(|message| parameters.wrong_config(&message))?;
                Ok(Self::GptNeoX(GptNeoX::new(&config, parameters)?))
            }
            Some("gpt2") => {
                let config = parse(config, |config| config).map_err(|message| parameters.wrong_config(&message))?;
                Ok(Self::Gpt2(Gpt2::new(&config, parameters)?))
            }
            other => {
                let found = other.map_or("no model_type".to_owned(), |other| format!("model_type `{other}`"));
                let supported = ARCHITECTURES.map(|(model_type, _)| model_type).join(", ");
                Err(parameters.wrong_config(&format!("{found} is not supported; supported: {supported}")))
            }
        }
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.head().rows()
    }

    /// Size of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.head().width()
    }

    /// The longest sequence that the model can take; none where positions are computed.
    pub fn position_limit(&self) -> Option<usize> {
        match self {
            Self::Decoder(_) | Self::GptNeoX(_) => None,
            Self::Gpt2(model) => Some(model.positions()),
        }
    }

    fn head(&self) -> Head {
        match self {
            Self::Decoder(model) => model.head(),
            Self::GptNeoX(model) => model.head(),
            Self::Gpt2(model) => model.head(),
        }
    }

    /// Log-probabilities `[batch.targets.len()]` of the batch's needed tokens, in the batch's order.
    ///
    /// All ids must be smaller than [`Self::vocab_size`], all positions than [`Self::position_limit`].
    pub fn token_logps(&self, batch: &PackedBatch, device: &Device) -> Tensor<1> {
        self.logps_of(self.hidden(batch, device), batch)
    }

    /// As [`Self::token_logps`], of the batch's hidden states ([`Self::hidden`]).
    pub fn logps_of(&self, hidden: Tensor<2>, batch: &PackedBatch) -> Tensor<1> {
        self.head().token_logps(hidden, batch.targets.as_slice().into())
    }

    /// As [`Self::logps_of`], beside what `reference`, which has the same vocabulary, says about the same tokens.
    pub fn compared(&self, hidden: Tensor<2>, reference: &Self, batch: &PackedBatch, device: &Device) -> Compared {
        let inner = device.clone().without_autodiff();
        let other = (reference.head(), reference.hidden(batch, &inner));
        self.head().token_kl(hidden, other, batch.targets.as_slice().into())
    }

    /// Logits `[batch.rows.len(), vocabulary]` of the tokens that follow the batch's needed rows, of which there is at least one.
    /// Rows see what `cache` holds of their sequence, and are added to it.
    pub fn next_logits(&self, batch: &PackedBatch, cache: &mut KvCache, device: &Device) -> Tensor<2> {
        self.head().logits(self.needed(batch, Some(cache), device))
    }

    /// An empty cache for the keys and values of its layers.
    pub fn cache(&self) -> KvCache {
        KvCache::new(self.layers())
    }

    /// Calls `visit` with every parameter's checkpoint name and tensor, flattened, in a fixed order.
    pub fn for_each_parameter(&self, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        weights::for_each(self, visit);
    }

    /// Takes every trained parameter's gradient out of `gradients`: checkpoint name and flat values.
    pub fn take_gradients(&self, gradients: &mut Gradients, take: impl FnMut(&str, Tensor<1>)) {
        weights::take_gradients(self, gradients, take);
    }

    /// Replaces every parameter by what `replace` makes of its checkpoint name and tensor.
    pub fn map_parameters(self, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        weights::map(self, replace)
    }
}

/// The sizes in config.json, whatever the architecture.
const SIZES: [&str; 12] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
];

/// No model has more of anything. Products of three stay within 64 bits.
const LARGEST_SIZE: u64 = 1 << 20;

/// Reads an architecture's config.json.
fn parse<C: DeserializeOwned, T>(config: &Value, then: impl FnOnce(C) -> T) -> Result<T, String> {
    for name in SIZES {
        if let Some(size) = config.get(name).and_then(Value::as_u64).filter(|size| *size > LARGEST_SIZE) {
            return Err(format!("{name} {size} is above {LARGEST_SIZE}"));
        }
    }
    serde_json::from_value(config.clone()).map(then).map_err(|error| error.to_string())
}
