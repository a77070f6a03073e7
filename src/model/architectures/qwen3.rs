//! The Qwen3 architecture (arXiv 2505.09388), dense: Llama with an RMS norm on every query and key head. Reference
//! implementation: `transformers`, `models/qwen3/modeling_qwen3.py`.

use serde::Deserialize;

use super::decoder;
use super::qwen2::Windows;

/// config.json, with its own names.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    #[serde(flatten)]
    windows: Windows,
    #[serde(default)]
    attention_bias: bool,
}

impl Config {
    /// The decoder that it describes.
    pub fn decoder(self) -> Result<decoder::Config, String> {
        Ok(decoder::Config {
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            mlp_bias: false,
            qk_norm: true,
            windows: self.windows.of_layers(self.common.num_hidden_layers)?,
            common: self.common,
        })
    }
}
