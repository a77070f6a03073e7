//! The supported architectures, one file each, fields spelt as in the checkpoint.

pub mod decoder;
pub mod gpt2;
pub mod gpt_neox;
pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;

use burn::module::Module;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Result;
use crate::model::layers::parameters::Parameters;
use decoder::Decoder;
use gpt_neox::GptNeoX;
use gpt2::Gpt2;

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
pub(super) const ARCHITECTURES: [(&str, &str); 6] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
];

impl CausalLm {
    /// The model that `config` describes, with `parameters`.
    pub(super) fn new(config: &Value, parameters: &mut Parameters) -> Result<Self> {
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
