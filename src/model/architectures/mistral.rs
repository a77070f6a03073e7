//! The Mistral architecture (arXiv 2310.06825): Llama with a sliding window in every layer. Reference implementation:
//! `transformers`, `models/mistral/modeling_mistral.py`.

use serde::Deserialize;
use serde_json::Value;

use super::decoder;
use super::interface::parse;

/// The fields of config.json.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    /// Positions that a row attends to: all if `null`, 4096 as in the first release if the field is missing.
    #[serde(default = "default_window")]
    sliding_window: Option<usize>,
}

fn default_window() -> Option<usize> {
    Some(4096)
}

/// The decoder that `config` describes.
///
/// # Errors
/// An option that is wrong or not supported.
pub fn read(config: &Value) -> Result<decoder::Config, String> {
    let config: Config = parse(config, decoder::SIZES)?;
    Ok(decoder::Config {
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        max_positions: config.common.max_position_embeddings.unwrap_or(131_072),
        windows: vec![config.sliding_window; config.common.num_hidden_layers],
        common: config.common,
    })
}
