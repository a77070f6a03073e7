//! The Qwen3 architecture (arXiv 2505.09388), dense: Llama with an RMS norm on every query and key head. Reference
//! implementation: `transformers`, `models/qwen3/modeling_qwen3.py`.

use serde::Deserialize;
use serde_json::Value;

use super::decoder;
use super::interface::parse;
use super::qwen2::Windows;

/// The fields of config.json.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    #[serde(flatten)]
    windows: Windows,
    #[serde(default)]
    attention_bias: bool,
}

/// The decoder that `config` describes.
///
/// # Errors
/// An option that is wrong or not supported.
pub fn read(config: &Value) -> Result<decoder::Config, String> {
    let config: Config = parse(config, decoder::SIZES)?;
    Ok(decoder::Config {
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        mlp_bias: false,
        qk_norm: true,
        max_positions: config.common.max_position_embeddings.unwrap_or(32_768),
        windows: config.windows.of_layers(config.common.num_hidden_layers)?,
        common: config.common,
    })
}
