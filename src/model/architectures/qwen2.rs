//! The Qwen2 architecture (arXiv 2407.10671), Qwen2.5 included: Llama with biases on query, key and value. Reference
//! implementation: `transformers`, `models/qwen2/modeling_qwen2.py`.

use serde::Deserialize;
use serde_json::Value;

use super::decoder;
use super::interface::parse;

/// The fields of config.json.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    common: decoder::Common,
    #[serde(flatten)]
    windows: Windows,
}

/// The decoder that `config` describes.
///
/// # Errors
/// An option that is wrong or not supported.
pub fn read(config: &Value) -> Result<decoder::Config, String> {
    let config: Config = parse(config, decoder::SIZES)?;
    Ok(decoder::Config {
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        max_positions: config.common.max_position_embeddings.unwrap_or(32_768),
        windows: config.windows.of_layers(config.common.num_hidden_layers)?,
        common: config.common,
    })
}

/// The sliding windows of Qwen2 and Qwen3.
#[derive(Debug, Deserialize)]
pub struct Windows {
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "default_window")]
    sliding_window: Option<usize>,
    #[serde(default = "default_window_layers")]
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
}

fn default_window() -> Option<usize> {
    Some(4096)
}

fn default_window_layers() -> usize {
    28
}

impl Windows {
    /// The window of each of `layers` layers. Despite its name, `max_window_layers` is the number of first layers without one.
    ///
    /// # Errors
    /// An option that is wrong or not supported.
    pub fn of_layers(&self, layers: usize) -> Result<Vec<Option<usize>>, String> {
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        let Some(types) = &self.layer_types else {
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= self.max_window_layers)).collect());
        };
        if types.len() != layers {
            return Err(format!("layer_types names {} layers, num_hidden_layers {layers}", types.len()));
        }
        let of_type = |name: &String| match (name.as_str(), window) {
            ("full_attention", _) => Ok(None),
            ("sliding_attention", Some(window)) => Ok(Some(window)),
            ("sliding_attention", None) => {
                Err("layer_types asks for sliding_attention without use_sliding_window and sliding_window".to_owned())
            }
            (other, _) => {
                Err(format!("layer_types `{other}` is not supported; supported: full_attention, sliding_attention"))
            }
        };
        types.iter().map(of_type).collect()
    }
}
