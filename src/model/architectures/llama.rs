//! The Llama architecture: Llama 2 (arXiv 2307.09288), Llama 3 (arXiv 2407.21783), TinyLlama, SmolLM. Reference
//! implementation: `transformers`, `models/llama/modeling_llama.py`.

use serde::Deserialize;
use serde_json::Value;

use super::decoder;
use super::interface::parse;

/// The fields of config.json.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
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
        mlp_bias: config.mlp_bias,
        qk_norm: false,
        max_positions: config.common.max_position_embeddings.unwrap_or(2048),
        windows: vec![None; config.common.num_hidden_layers],
        common: config.common,
    })
}
