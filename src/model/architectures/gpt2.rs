//! The GPT-2 architecture (Radford et al. 2019): learned positions, and weights stored `[in, out]` (`Conv1D`). Reference
//! implementation: `transformers`, `models/gpt2/modeling_gpt2.py`.

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
use crate::model::layers::weight::Head;
use crate::model::layers::{Embedding, LayerNorm, Linear};
use crate::model::sizes::{FeedForward, Names, Sizes};
use serde_json::Value;

/// The fields of config.json.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    #[serde(default = "default_act")]
    activation_function: String,
    #[serde(default = "default_eps")]
    layer_norm_epsilon: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

fn default_act() -> String {
    "gelu_new".into()
}
fn default_eps() -> f64 {
    1e-5
}
fn yes() -> bool {
    true
}

/// The model that `config` describes.
///
/// # Errors
/// An option that is wrong or not supported.
pub fn read(config: &Value) -> Result<Config, String> {
    parse(config, &["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"])
}

impl Config {
    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    fn check(&self) -> Result<Gelu, String> {
        let (width, heads) = (self.n_embd, self.n_head);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(format!("n_head {heads} does not divide n_embd {width}"));
        }
        if self.vocab_size == 0 || self.n_positions == 0 || self.n_inner == Some(0) {
            return Err("vocab_size, n_positions and n_inner must be above 0".into());
        }
        if self.add_cross_attention {
            return Err("add_cross_attention is not supported".into());
        }
        Gelu::named(&self.activation_function).map_err(|message| format!("activation_function {message}"))
    }

    /// The scale of the attention scores of layer `index`.
    fn scale(&self, index: usize) -> f32 {
        let head_dim = (self.n_embd / self.n_head) as f32;
        let by_width = if self.scale_attn_weights { 1.0 / head_dim.sqrt() } else { 1.0 };
        if self.scale_attn_by_inverse_layer_idx { by_width / (index + 1) as f32 } else { by_width }
    }
}

impl Architecture for Config {
    type Body = Gpt2;

    const NAMES: Names =
        Names { head: "lm_head", embeddings: "wte", after_layers: &["ln_f", "lm_head"], layout: Layout::InOut };

    fn sizes(&self) -> Sizes {
        Sizes {
            vocabulary: self.vocab_size,
            width: self.n_embd,
            layers: self.n_layer,
            heads: self.n_head,
            kv_heads: self.n_head,
            head_dim: self.n_embd / self.n_head.max(1),
            inner: self.inner(),
            feed_forward: FeedForward::Plain,
            positions: self.n_positions,
        }
    }

    fn body(&self, parameters: &mut Parameters) -> Result<Gpt2> {
        let gelu = self.check().map_err(|message| parameters.wrong_config(&message))?;
        // The names in the checkpoints of the first release lack this prefix.
        parameters.optional_prefix("transformer.");
        let is_tied = parameters.ties(self.tie_word_embeddings, "transformer.wte", "lm_head");
        let width = self.n_embd;
        let transformer = Transformer {
            wte: Embedding::new(parameters, "transformer.wte", self.vocab_size, width)?,
            wpe: Embedding::new(parameters, "transformer.wpe", self.n_positions, width)?,
            h: (0..self.n_layer).map(|index| Block::new(self, gelu, parameters, index)).collect::<Result<_>>()?,
            ln_f: LayerNorm::new(parameters, "transformer.ln_f", width, self.layer_norm_epsilon)?,
        };
        let lm_head =
            (!is_tied).then(|| Linear::new(parameters, "lm_head", width, self.vocab_size, false)).transpose()?;
        Ok(Gpt2 { transformer, lm_head })
    }
}

/// `GPT2LMHeadModel`.
#[derive(Module, Debug)]
pub struct Gpt2 {
    transformer: Transformer,
    /// Absent where the head is tied to the embeddings.
    lm_head: Option<Linear>,
}

#[derive(Module, Debug)]
struct Transformer {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
}

#[derive(Module, Debug)]
struct Block {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    c_attn: Linear,
    c_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    scale: f32,
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
    #[module(skip)]
    gelu: Gelu,
}

impl Body for Gpt2 {
    fn head(&self) -> Head {
        self.lm_head.as_ref().map_or_else(|| self.transformer.wte.head(), Linear::head)
    }

    fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    fn head_shape(&self) -> [usize; 2] {
        self.lm_head.as_ref().map_or_else(|| self.transformer.wte.shape(), Linear::shape)
    }

    fn layers(&self) -> usize {
        self.transformer.h.len()
    }

    fn position_limit(&self) -> Option<usize> {
        Some(self.transformer.wpe.entries())
    }

    fn context(&self, batch: &PackedBatch, _: &Device) -> LayerContext {
        LayerContext {
            segments: batch.staged().stream.clone(),
            angles: None,
            activations: self.transformer.wte.dtype(),
        }
    }

    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        let Transformer { wte, wpe, .. } = &self.transformer;
        wte.forward(&batch.staged().ids, device) + wpe.forward(&batch.staged().positions, device)
    }

    fn layer(&self, index: usize, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let block = &self.transformer.h[index];
        let normed = block.ln_1.forward(x.clone(), context.activations);
        let x = residual(x, block.attn.forward(normed, context, cache));
        let normed = block.ln_2.forward(x.clone(), context.activations);
        residual(x, block.mlp.forward(normed))
    }

    fn norm(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.transformer.ln_f.forward(hidden, self.transformer.wte.dtype())
    }
}

impl Block {
    fn new(config: &Config, gelu: Gelu, parameters: &mut Parameters, index: usize) -> Result<Self> {
        let at = |name: &str| format!("transformer.h.{index}.{name}");
        let (width, eps) = (config.n_embd, config.layer_norm_epsilon);
        let middle = config.inner();
        Ok(Self {
            ln_1: LayerNorm::new(parameters, &at("ln_1"), width, eps)?,
            attn: Attention {
                c_attn: Linear::conv1d(parameters, &at("attn.c_attn"), width, 3 * width)?,
                c_proj: Linear::conv1d(parameters, &at("attn.c_proj"), width, width)?,
                heads: config.n_head,
                scale: config.scale(index),
            },
            ln_2: LayerNorm::new(parameters, &at("ln_2"), width, eps)?,
            mlp: Mlp {
                c_fc: Linear::conv1d(parameters, &at("mlp.c_fc"), width, middle)?,
                c_proj: Linear::conv1d(parameters, &at("mlp.c_proj"), middle, width)?,
                gelu,
            },
        })
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let [rows, width] = x.dims();
        let all = self.c_attn.forward(x);
        let part = |index: usize| all.clone().slice([0..rows, index * width..(index + 1) * width]);
        let mut spans = Spans::new(context.segments.clone(), self.heads, self.heads, width / self.heads);
        spans.scale = self.scale;
        self.c_proj.forward(attend(part(0), part(1), part(2), spans, cache))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.c_proj.forward(gelu(self.c_fc.forward(x), self.gelu))
    }
}
