//! The decoder that Llama, Mistral, Qwen2 and Qwen3 share: rotary grouped-query attention and SwiGLU between RMS norms.
//!
//! They differ in data only: which layers have biases, whether heads are normalized, which layers have a sliding window. The file
//! of each architecture reads its config.json into a [`Config`].

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use super::interface::{Architecture, Body};
use crate::error::Result;
use crate::kernels::attention::Spans;
use crate::kernels::input::Input;
use crate::kernels::layout::Layout;
use crate::kernels::residual::residual;
use crate::kernels::swiglu::swiglu;
use crate::model::batch::PackedBatch;
use crate::model::layers::cache::{LayerCache, attend};
use crate::model::layers::context::LayerContext;
use crate::model::layers::parameters::Parameters;
use crate::model::layers::rope::{Rope, RopeConfig};
use crate::model::layers::weight::Head;
use crate::model::layers::{Embedding, Linear, RmsNorm};
use crate::model::sizes::{FeedForward, Names, Sizes};

/// The fields of config.json that are sizes.
pub const SIZES: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

/// The fields that config.json has in all these architectures.
#[derive(Debug, Clone, Deserialize)]
pub struct Common {
    hidden_size: usize,
    intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    /// Positions before `linear` scaling, after `llama3` scaling; each architecture has its own default.
    pub max_position_embeddings: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    hidden_act: Option<String>,
    #[serde(flatten)]
    rope: RopeConfig,
}

fn default_eps() -> f64 {
    1e-6
}

/// A decoder of the family.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sizes and positions.
    pub common: Common,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub output_bias: bool,
    /// Biases of the feed-forward network.
    pub mlp_bias: bool,
    /// RMS norms of every query and key head.
    pub qk_norm: bool,
    /// `max_position_embeddings`, or the default of the architecture.
    pub max_positions: usize,
    /// The sliding window of each layer, in positions including the own one; `None` without a window.
    pub windows: Vec<Option<usize>>,
}

impl Common {
    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn rope(&self, max_positions: usize) -> Result<Rope, String> {
        if self.rope.partial_rotary_factor().is_some_and(|factor| factor != 1.0) {
            return Err("partial_rotary_factor is not supported for this model_type".into());
        }
        let (theta, head_dim) = (self.rope.rope_theta.unwrap_or(10_000.0), self.head_dim());
        self.rope.rope(theta, head_dim, head_dim, max_positions)
    }

    /// Checks the options.
    ///
    /// # Errors
    /// An option that is wrong or not supported.
    fn check(&self) -> Result<(), String> {
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(format!("hidden_act `{other}` is not supported; supported: silu")),
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            return Err(format!("num_attention_heads {heads} does not divide hidden_size {}", self.hidden_size));
        }
        if self.vocab_size == 0 || self.hidden_size == 0 || self.intermediate_size == 0 {
            return Err("vocab_size, hidden_size and intermediate_size must be above 0".into());
        }
        Ok(())
    }
}

impl Architecture for Config {
    type Body = Decoder;

    const NAMES: Names = Names {
        head: "lm_head",
        embeddings: "embed_tokens",
        after_layers: &["norm", "lm_head"],
        layout: Layout::OutIn,
    };

    fn sizes(&self) -> Sizes {
        let common = &self.common;
        Sizes {
            vocabulary: common.vocab_size,
            width: common.hidden_size,
            layers: common.num_hidden_layers,
            heads: common.num_attention_heads,
            kv_heads: common.kv_heads(),
            head_dim: common.head_dim(),
            inner: common.intermediate_size,
            feed_forward: FeedForward::Gated,
            positions: common.rope.longest(self.max_positions),
        }
    }

    fn body(&self, parameters: &mut Parameters) -> Result<Decoder> {
        let common = &self.common;
        common.check().map_err(|message| parameters.wrong_config(&message))?;
        if self.windows.contains(&Some(0)) {
            return Err(parameters.wrong_config("sliding_window must be above 0"));
        }
        let rope = common.rope(self.max_positions).map_err(|message| parameters.wrong_config(&message))?;
        let (vocabulary, width) = (common.vocab_size, common.hidden_size);
        parameters.optional_prefix("model.");
        let is_tied = parameters.ties(common.tie_word_embeddings, "model.embed_tokens", "lm_head");
        let layers = self.windows.iter().enumerate();
        let model = Model {
            embed_tokens: Embedding::new(parameters, "model.embed_tokens", vocabulary, width)?,
            layers: layers
                .map(|(index, window)| DecoderLayer::new(self, *window, parameters, index))
                .collect::<Result<_>>()?,
            norm: RmsNorm::new(parameters, "model.norm", width, common.rms_norm_eps)?,
            rope,
        };
        let lm_head = (!is_tied).then(|| Linear::new(parameters, "lm_head", width, vocabulary, false)).transpose()?;
        Ok(Decoder { model, lm_head })
    }
}

/// `LlamaForCausalLM` and its relatives.
#[derive(Module, Debug)]
pub struct Decoder {
    model: Model,
    /// Absent where the head is tied to the embeddings.
    lm_head: Option<Linear>,
}

#[derive(Module, Debug)]
struct Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

#[derive(Module, Debug)]
struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    window: Option<usize>,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Body for Decoder {
    fn head(&self) -> Head {
        self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.head(), Linear::head)
    }

    fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    fn head_shape(&self) -> [usize; 2] {
        self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.shape(), Linear::shape)
    }

    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn context(&self, batch: &PackedBatch, device: &Device) -> LayerContext {
        let (staged, activations) = (batch.staged(), self.model.embed_tokens.dtype());
        let angles = self.model.rope.angles(&staged.positions, device, activations);
        LayerContext { segments: staged.stream.clone(), angles: Some(angles), activations }
    }

    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        self.model.embed_tokens.forward(&batch.staged().ids, device)
    }

    fn layer(&self, index: usize, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let layer = &self.model.layers[index];
        let x = Input::shared(x);
        let normed = layer.input_layernorm.forward(x.clone(), context.activations);
        let x = Input::shared(residual(x, layer.self_attn.forward(normed, context, cache)));
        let normed = layer.post_attention_layernorm.forward(x.clone(), context.activations);
        residual(x, layer.mlp.forward(normed))
    }

    fn norm(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(hidden, self.model.embed_tokens.dtype())
    }
}

impl DecoderLayer {
    fn new(config: &Config, window: Option<usize>, parameters: &mut Parameters, index: usize) -> Result<Self> {
        let common = &config.common;
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let (width, eps) = (common.hidden_size, common.rms_norm_eps);
        let (heads, kv_heads, head_dim) = (common.num_attention_heads, common.kv_heads(), common.head_dim());
        let (inner, kv_inner) = (heads * head_dim, kv_heads * head_dim);
        let head_norm = |parameters: &mut Parameters, name: &str| {
            config.qk_norm.then(|| RmsNorm::new(parameters, &at(name), head_dim, eps)).transpose()
        };
        let self_attn = Attention {
            q_proj: Linear::new(parameters, &at("self_attn.q_proj"), width, inner, config.qkv_bias)?,
            k_proj: Linear::new(parameters, &at("self_attn.k_proj"), width, kv_inner, config.qkv_bias)?,
            v_proj: Linear::new(parameters, &at("self_attn.v_proj"), width, kv_inner, config.qkv_bias)?,
            o_proj: Linear::new(parameters, &at("self_attn.o_proj"), inner, width, config.output_bias)?,
            q_norm: head_norm(parameters, "self_attn.q_norm")?,
            k_norm: head_norm(parameters, "self_attn.k_norm")?,
            heads,
            kv_heads,
            head_dim,
            window,
        };
        let (middle, bias) = (common.intermediate_size, config.mlp_bias);
        let mlp = Mlp {
            gate_proj: Linear::new(parameters, &at("mlp.gate_proj"), width, middle, bias)?,
            up_proj: Linear::new(parameters, &at("mlp.up_proj"), width, middle, bias)?,
            down_proj: Linear::new(parameters, &at("mlp.down_proj"), middle, width, bias)?,
        };
        Ok(Self {
            self_attn,
            mlp,
            input_layernorm: RmsNorm::new(parameters, &at("input_layernorm"), width, eps)?,
            post_attention_layernorm: RmsNorm::new(parameters, &at("post_attention_layernorm"), width, eps)?,
        })
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, context: &LayerContext, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let normed = |norm: &Option<RmsNorm>, x: Tensor<2>| match norm {
            Some(norm) => norm.forward_heads(x, self.head_dim),
            None => x,
        };
        let x = Input::shared(x);
        let q = context.rotate(normed(&self.q_norm, self.q_proj.forward(x.clone())));
        let k = context.rotate(normed(&self.k_norm, self.k_proj.forward(x.clone())));
        let v = self.v_proj.forward(x);
        let mut spans = Spans::new(context.segments.clone(), self.heads, self.kv_heads, self.head_dim);
        spans.window = self.window;
        self.o_proj.forward(attend(q, k, v, spans, cache))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = Input::shared(x);
        self.down_proj.forward(swiglu(self.gate_proj.forward(x.clone()), self.up_proj.forward(x)))
    }
}
