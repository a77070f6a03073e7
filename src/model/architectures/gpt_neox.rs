//! The GPT-NeoX architecture (arXiv 2204.06745): Pythia. Query, key and value in one projection, rotary positions on the first
//! dimensions of each head, attention and feed-forward in parallel or in sequence.
//! Reference implementation: `transformers`, `models/gpt_neox/modeling_gpt_neox.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use super::interface::{Architecture, Body, parse};
use crate::error::Result;
use crate::kernels::attention::Spans;
use crate::kernels::gelu::{Gelu, gelu};
use crate::kernels::layout::Layout;
use crate::kernels::residual::residual;
use crate::model::batch::PackedBatch;
use crate::model::layers::cache::{LayerCache, attend};
use crate::model::layers::context::LayerContext;
use crate::model::layers::parameters::Parameters;
use crate::model::layers::rope::{Rope, RopeConfig};
use crate::model::layers::weight::Head;
use crate::model::layers::{Embedding, LayerNorm, Linear};
use crate::model::sizes::{FeedForward, Names, Sizes};
use serde_json::Value;

/// The fields of config.json.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "yes")]
    use_parallel_residual: bool,
    #[serde(default = "yes")]
    attention_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    rotary_pct: Option<f64>,
    rotary_emb_base: Option<f64>,
    #[serde(flatten)]
    rope: RopeConfig,
}

fn default_positions() -> usize {
    2048
}
fn default_eps() -> f64 {
    1e-5
}
fn default_act() -> String {
    "gelu".into()
}
fn yes() -> bool {
    true
}

/// The model that `config` describes.
///
/// # Errors
/// An option that is wrong or not supported.
pub fn read(config: &Value) -> Result<Config, String> {
    parse(config, &["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"])
}

impl Config {
    fn check(&self) -> Result<(Gelu, Rope), String> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(format!("num_attention_heads {heads} does not divide hidden_size {width}"));
        }
        if self.vocab_size == 0 || self.intermediate_size == 0 {
            return Err("vocab_size and intermediate_size must be above 0".into());
        }
        let gelu = Gelu::named(&self.hidden_act).map_err(|message| format!("hidden_act {message}"))?;
        let head_dim = width / heads;
        let share = self.rope.partial_rotary_factor().or(self.rotary_pct).unwrap_or(0.25);
        let theta = self.rotary_emb_base.unwrap_or(10_000.0);
        let rotary_dim = (head_dim as f64 * share) as usize;
        Ok((gelu, self.rope.rope(theta, head_dim, rotary_dim, self.max_position_embeddings)?))
    }
}

impl Architecture for Config {
    type Body = GptNeoX;

    const NAMES: Names = Names {
        head: "embed_out",
        embeddings: "embed_in",
        after_layers: &["final_layer_norm", "embed_out"],
        layout: Layout::OutIn,
    };

    fn sizes(&self) -> Sizes {
        Sizes {
            vocabulary: self.vocab_size,
            width: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_attention_heads,
            head_dim: self.hidden_size / self.num_attention_heads.max(1),
            inner: self.intermediate_size,
            feed_forward: FeedForward::Plain,
            positions: self.rope.longest(self.max_position_embeddings),
        }
    }

    fn body(&self, parameters: &mut Parameters) -> Result<GptNeoX> {
        let (gelu, rope) = self.check().map_err(|message| parameters.wrong_config(&message))?;
        let (vocabulary, width) = (self.vocab_size, self.hidden_size);
        parameters.optional_prefix("gpt_neox.");
        let is_tied = parameters.ties(self.tie_word_embeddings, "gpt_neox.embed_in", "embed_out");
        let layers = 0..self.num_hidden_layers;
        let gpt_neox = Model {
            embed_in: Embedding::new(parameters, "gpt_neox.embed_in", vocabulary, width)?,
            layers: layers.map(|index| Layer::new(self, gelu, parameters, index)).collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::new(parameters, "gpt_neox.final_layer_norm", width, self.layer_norm_eps)?,
            rope,
        };
        let embed_out =
            (!is_tied).then(|| Linear::new(parameters, "embed_out", width, vocabulary, false)).transpose()?;
        Ok(GptNeoX { gpt_neox, embed_out })
    }
}

/// `GPTNeoXForCausalLM`.
#[derive(Module, Debug)]
pub struct GptNeoX {
    gpt_neox: Model,
    /// Absent where the head is tied to the embeddings.
    embed_out: Option<Linear>,
}

#[derive(Module, Debug)]
struct Model {
    embed_in: Embedding,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    rope: Rope,
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    mlp: Mlp,
    input_layernorm: LayerNorm,
    post_attention_layernorm: LayerNorm,
    #[module(skip)]
    parallel: bool,
}

#[derive(Module, Debug)]
struct Attention {
    query_key_value: Linear,
    dense: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    head_dim: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    dense_h_to_4h: Linear,
    dense_4h_to_h: Linear,
    #[module(skip)]
    gelu: Gelu,
}

impl Body for GptNeoX {
    fn head(&self) -> Head {
        self.embed_out.as_ref().map_or_else(|| self.gpt_neox.embed_in.head(), Linear::head)
    }

    fn is_tied(&self) -> bool {
        self.embed_out.is_none()
    }

    fn head_shape(&self) -> [usize; 2] {
        self.embed_out.as_ref().map_or_else(|| self.gpt_neox.embed_in.shape(), Linear::shape)
    }

    fn layers(&self) -> usize {
        self.gpt_neox.layers.len()
    }

    fn context(&self, batch: &PackedBatch, device: &Device) -> LayerContext {
        let (staged, activations) = (batch.staged(), self.gpt_neox.embed_in.dtype());
        let angles = self.gpt_neox.rope.angles(&staged.positions, device, activations);
        LayerContext { segments: staged.stream.clone(), angles: Some(angles), activations }
    }

    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        self.gpt_neox.embed_in.forward(&batch.staged().ids, device)
    }

    fn layer(&self, index: usize, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        self.gpt_neox.layers[index].forward(x, context, cache)
    }

    fn norm(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.gpt_neox.final_layer_norm.forward(hidden, self.gpt_neox.embed_in.dtype())
    }
}

impl Layer {
    fn new(config: &Config, gelu: Gelu, parameters: &mut Parameters, index: usize) -> Result<Self> {
        let at = |name: &str| format!("gpt_neox.layers.{index}.{name}");
        let (width, middle, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (heads, bias) = (config.num_attention_heads, config.attention_bias);
        Ok(Self {
            attention: Attention {
                query_key_value: Linear::new(parameters, &at("attention.query_key_value"), width, 3 * width, bias)?,
                dense: Linear::new(parameters, &at("attention.dense"), width, width, bias)?,
                heads,
                head_dim: width / heads,
            },
            mlp: Mlp {
                dense_h_to_4h: Linear::new(parameters, &at("mlp.dense_h_to_4h"), width, middle, true)?,
                dense_4h_to_h: Linear::new(parameters, &at("mlp.dense_4h_to_h"), middle, width, true)?,
                gelu,
            },
            input_layernorm: LayerNorm::new(parameters, &at("input_layernorm"), width, eps)?,
            post_attention_layernorm: LayerNorm::new(parameters, &at("post_attention_layernorm"), width, eps)?,
            parallel: config.use_parallel_residual,
        })
    }

    fn forward(&self, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let out = context.activations;
        let attended = self.attention.forward(self.input_layernorm.forward(x.clone(), out), context, cache);
        if self.parallel {
            let added = self.mlp.forward(self.post_attention_layernorm.forward(x.clone(), out)) + attended;
            return residual(x, added);
        }
        let x = residual(x, attended);
        let added = self.mlp.forward(self.post_attention_layernorm.forward(x.clone(), out));
        residual(x, added)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let Self { heads, head_dim, .. } = *self;
        let rows = x.dims()[0];
        // The query, key and value of a head are adjacent.
        let all = self.query_key_value.forward(x).reshape([rows, heads, 3 * head_dim]);
        let part = |index: usize| {
            let columns = index * head_dim..(index + 1) * head_dim;
            all.clone().slice([0..rows, 0..heads, columns]).reshape([rows, heads * head_dim])
        };
        let (q, k, v) = (context.rotate(part(0)), context.rotate(part(1)), part(2));
        self.dense.forward(attend(q, k, v, Spans::new(context.segments.clone(), heads, heads, head_dim), cache))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.dense_4h_to_h.forward(gelu(self.dense_h_to_4h.forward(x), self.gelu))
    }
}
