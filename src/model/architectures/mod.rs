//! The supported architectures. Each has a file, with fields named as in the checkpoint, and a row in `ARCHITECTURES`.

pub mod decoder;
pub mod gpt2;
pub mod gpt_neox;
mod interface;
pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;

use burn::module::Module;
use serde_json::Value;

use super::checkpoint::source::ModelSource;
use super::layers::parameters::Parameters;
use super::sizes::{Names, Sizes};
use crate::error::{Error, Result};
use decoder::Decoder;
use gpt_neox::GptNeoX;
use gpt2::Gpt2;
pub use interface::{Architecture, Body};

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

impl CausalLm {
    /// The layers, of whichever architecture.
    pub(super) fn body(&self) -> &dyn Body {
        match self {
            Self::Decoder(body) => body,
            Self::GptNeoX(body) => body,
            Self::Gpt2(body) => body,
        }
    }
}

/// A `model_type` of config.json, its class in `transformers`, and the function that reads its config.json.
type Known = (&'static str, &'static str, fn(&Value) -> Result<Described, String>);

/// The supported architectures.
const ARCHITECTURES: &[Known] = &[
    ("llama", "LlamaForCausalLM", |config| described(config, llama::read, CausalLm::Decoder)),
    ("mistral", "MistralForCausalLM", |config| described(config, mistral::read, CausalLm::Decoder)),
    ("qwen2", "Qwen2ForCausalLM", |config| described(config, qwen2::read, CausalLm::Decoder)),
    ("qwen3", "Qwen3ForCausalLM", |config| described(config, qwen3::read, CausalLm::Decoder)),
    ("gpt_neox", "GPTNeoXForCausalLM", |config| described(config, gpt_neox::read, CausalLm::GptNeoX)),
    ("gpt2", "GPT2LMHeadModel", |config| described(config, gpt2::read, CausalLm::Gpt2)),
];

/// A model as config.json describes it.
pub struct Described {
    /// Its sizes.
    pub sizes: Sizes,
    /// The names of its tensors.
    pub names: Names,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
    build: Build,
}

type Build = Box<dyn FnOnce(&mut Parameters) -> Result<CausalLm>>;

impl Described {
    /// The model with the parameters of a checkpoint, or new ones.
    ///
    /// # Errors
    /// As for [`Architecture::body`].
    pub(super) fn build(self, parameters: &mut Parameters) -> Result<CausalLm> {
        (self.build)(parameters)
    }
}

/// The description of `config` as `read` by an architecture, whose body becomes a `variant` of [`CausalLm`].
fn described<A: Architecture + 'static>(
    config: &Value,
    read: fn(&Value) -> Result<A, String>,
    variant: fn(A::Body) -> CausalLm,
) -> Result<Described, String> {
    let architecture = read(config)?;
    Ok(Described {
        sizes: architecture.sizes(),
        names: A::NAMES,
        initializer_range: config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02),
        build: Box::new(move |parameters| architecture.body(parameters).map(variant)),
    })
}

impl ModelSource {
    /// The model as config.json describes it.
    ///
    /// # Errors
    /// A config.json that cannot be read, or a model that is not supported.
    pub fn describe(&self) -> Result<Described> {
        describe(&self.config()?).map_err(|message| Error::model(self, format!("config.json: {message}")))
    }
}

fn describe(config: &Value) -> Result<Described, String> {
    if config.get("quantization_config").is_some_and(|quantization| !quantization.is_null()) {
        return Err("quantization_config: quantised checkpoints are not supported".into());
    }
    match known(config) {
        Some((.., read)) => read(config),
        None => {
            let model_type = config.get("model_type").and_then(Value::as_str);
            let found = model_type.map_or("no model_type".to_owned(), |found| format!("model_type `{found}`"));
            let supported = ARCHITECTURES.iter().map(|(model_type, ..)| *model_type).collect::<Vec<_>>().join(", ");
            Err(format!("{found} is not supported; supported: {supported}"))
        }
    }
}

fn known(config: &Value) -> Option<&'static Known> {
    let model_type = config.get("model_type").and_then(Value::as_str)?;
    ARCHITECTURES.iter().find(|(known, ..)| *known == model_type)
}

/// The class in `transformers` of the model that `config` describes.
pub(super) fn class(config: &Value) -> Option<&'static str> {
    known(config).map(|(_, class, _)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sizes::FeedForward;
    use serde_json::json;

    #[test]
    fn every_architecture_says_its_sizes() {
        let gpt2 = json!({ "model_type": "gpt2", "vocab_size": 90, "n_positions": 32, "n_embd": 48, "n_layer": 3, "n_head": 4 });
        let sizes = describe(&gpt2).unwrap().sizes;
        assert_eq!(
            sizes,
            Sizes {
                vocabulary: 90,
                width: 48,
                layers: 3,
                heads: 4,
                kv_heads: 4,
                head_dim: 12,
                inner: 192,
                feed_forward: FeedForward::Plain,
                positions: 32,
            }
        );
        let mut llama = json!({
            "model_type": "llama", "vocab_size": 90, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        });
        let sizes = describe(&llama).unwrap().sizes;
        assert_eq!((sizes.kv_heads, sizes.head_dim, sizes.inner), (2, 16, 100));
        assert_eq!(sizes.feed_forward, FeedForward::Gated);
        llama["hidden_size"] = json!(1 << 30);
        assert_eq!(describe(&llama).err().unwrap(), "hidden_size 1073741824 is above 1048576");
        llama["model_type"] = json!("other");
        assert!(describe(&llama).err().unwrap().starts_with("model_type `other` is not supported; supported: llama,"));
    }

    #[test]
    fn positions_are_those_that_a_model_was_trained_for() {
        let positions = |more: Value| {
            let mut config = json!({
                "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 1, "max_position_embeddings": 4096,
            });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            describe(&config).unwrap().sizes.positions
        };
        assert_eq!(positions(json!({})), 4096);
        assert_eq!(positions(json!({ "model_type": "qwen2", "sliding_window": 512 })), 4096);
        assert_eq!(positions(json!({ "rope_scaling": null, "rope_parameters": { "rope_theta": 1e4 } })), 4096);
        // lmsys/vicuna-7b-v1.5-16k.
        assert_eq!(positions(json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } })), 16_384);
        let raised = json!({ "max_position_embeddings": 16_384,
            "rope_parameters": { "rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096 } });
        assert_eq!(positions(raised), 16_384);
        // meta-llama/Llama-3.2-1B.
        let llama3 = json!({ "max_position_embeddings": 131_072,
            "rope_scaling": { "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192 } });
        assert_eq!(positions(llama3), 131_072);
        // The defaults of `transformers`.
        for (model_type, default) in
            [("llama", 2048), ("mistral", 131_072), ("qwen2", 32_768), ("qwen3", 32_768), ("gpt_neox", 2048)]
        {
            let config = json!({
                "model_type": model_type, "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 1,
            });
            assert_eq!(describe(&config).unwrap().sizes.positions, default, "{model_type}");
        }
    }
}
