//! The Mistral architecture (arXiv 2310.06825): Llama with a sliding window in every layer. Reference implementation:
//! `transformers`, `models/mistral/modeling_mistral.py`.

use serde::Deserialize;

use super::decoder;

/// config.json, with its own names.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    /// Positions that a row sees; `null` means all, no word about it the first release's 4096.
    #[serde(default = "default_window")]
    sliding_window: Option<usize>,
}

fn default_window() -> Option<usize> {
    Some(4096)
}

impl Config {
    /// The decoder that it describes.
    pub fn decoder(self) -> decoder::Config {
        decoder::Config {
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            windows: vec![self.sliding_window; self.common.num_hidden_layers],
            common: self.common,
        }
    }
}
