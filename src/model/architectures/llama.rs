//! The Llama architecture: Llama 2 (arXiv 2307.09288), Llama 3 (arXiv 2407.21783), TinyLlama, SmolLM. Reference
//! implementation: `transformers`, `models/llama/modeling_llama.py`.

use serde::Deserialize;

use super::decoder;

/// config.json, with its own names.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    /// The decoder that it describes.
    pub fn decoder(self) -> decoder::Config {
        decoder::Config {
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            qk_norm: false,
            windows: vec![None; self.common.num_hidden_layers],
            common: self.common,
        }
    }
}
