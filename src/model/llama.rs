//! The Llama architecture: Llama 2 (arXiv 2307.09288), Llama 3 (arXiv 2407.21783), TinyLlama, SmolLM. Reference
//! implementation: `transformers`, `models/llama/modeling_llama.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;

use super::kernels::attention::{Spans, attention};
use super::kernels::rotary::rotary;
use super::kernels::swiglu::swiglu;
use super::layers::{Embedding, Linear, RmsNorm};
use super::packed::PackedBatch;
use super::source::ModelSource;
use super::weights::Parameters;
use crate::error::{Error, Result};

/// config.json, with its own names.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
}

/// How rotary frequencies are made.
#[derive(Debug, Clone, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Config {
    /// Reads config.json and refuses what this file does not implement.
    pub fn parse(config: &Value, source: &ModelSource) -> Result<Self> {
        let wrong = |message: String| Error::model(source, format!("config.json: {message}"));
        let config: Self = serde_json::from_value(config.clone()).map_err(|error| wrong(error.to_string()))?;
        let rope = config.rope().and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
        if !["default", "llama3"].contains(&rope) {
            return Err(wrong(format!("rope_scaling `{rope}` is not supported; supported: default, llama3")));
        }
        match config.hidden_act.as_deref() {
            None | Some("silu") => {}
            Some(other) => return Err(wrong(format!("hidden_act `{other}` is not supported; supported: silu"))),
        }
        let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(wrong(format!("num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}")));
        }
        if config.head_dim.is_none() && !config.hidden_size.is_multiple_of(heads) {
            return Err(wrong(format!(
                "num_attention_heads {heads} does not divide hidden_size {}",
                config.hidden_size
            )));
        }
        if config.head_dim() == 0 || !config.head_dim().is_multiple_of(2) {
            return Err(wrong(format!("head_dim {} is not an even number above 0", config.head_dim())));
        }
        if config.vocab_size == 0 || config.hidden_size == 0 || config.intermediate_size == 0 {
            return Err(wrong("vocab_size, hidden_size and intermediate_size must be above 0".into()));
        }
        Ok(config)
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Turns per position of each pair of dimensions, `[head_dim / 2]`, in f32 as `transformers` computes them.
    fn frequencies(&self) -> Vec<f32> {
        let rope = self.rope();
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        let d = self.head_dim();
        let plain = (0..d / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / d as f32));
        match rope.filter(|rope| rope.rope_type.as_deref() == Some("llama3")) {
            None => plain.collect(),
            Some(rope) => plain.map(|frequency| rope.llama3(frequency)).collect(),
        }
    }
}

impl Rope {
    /// Llama 3's scaling: low frequencies are divided by `factor`, high ones kept, those between blended.
    fn llama3(&self, frequency: f32) -> f32 {
        let factor = self.factor.unwrap_or(8.0) as f32;
        let low = self.low_freq_factor.unwrap_or(1.0) as f32;
        let high = self.high_freq_factor.unwrap_or(4.0) as f32;
        let context = self.original_max_position_embeddings.unwrap_or(8192.0) as f32;
        let turns = context * frequency / (2.0 * std::f32::consts::PI);
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// `LlamaForCausalLM`.
#[derive(Module, Debug)]
pub struct Llama {
    model: Body,
    /// Absent where the head is tied to the embeddings.
    lm_head: Option<Linear>,
    #[module(skip)]
    vocab_size: usize,
    #[module(skip)]
    max_positions: usize,
}

#[derive(Module, Debug)]
struct Body {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    frequencies: Vec<f32>,
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
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    head_dim: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Llama {
    /// The model with the parameters of a checkpoint, or new ones.
    pub fn new(config: Config, parameters: &mut Parameters) -> Result<Self> {
        let width = config.hidden_size;
        let layer = |parameters: &mut Parameters, index: usize| {
            let at = |name: &str| format!("model.layers.{index}.{name}");
            let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.kv_heads(), config.head_dim());
            let (inner, kv_inner) = (heads * head_dim, kv_heads * head_dim);
            let bias = config.attention_bias;
            let self_attn = Attention {
                q_proj: Linear::new(parameters, &at("self_attn.q_proj"), width, inner, bias)?,
                k_proj: Linear::new(parameters, &at("self_attn.k_proj"), width, kv_inner, bias)?,
                v_proj: Linear::new(parameters, &at("self_attn.v_proj"), width, kv_inner, bias)?,
                o_proj: Linear::new(parameters, &at("self_attn.o_proj"), inner, width, bias)?,
                heads,
                kv_heads,
                head_dim,
            };
            let (middle, bias) = (config.intermediate_size, config.mlp_bias);
            let mlp = Mlp {
                gate_proj: Linear::new(parameters, &at("mlp.gate_proj"), width, middle, bias)?,
                up_proj: Linear::new(parameters, &at("mlp.up_proj"), width, middle, bias)?,
                down_proj: Linear::new(parameters, &at("mlp.down_proj"), middle, width, bias)?,
            };
            let eps = config.rms_norm_eps;
            Ok(DecoderLayer {
                self_attn,
                mlp,
                input_layernorm: RmsNorm::new(parameters, &at("input_layernorm"), width, eps)?,
                post_attention_layernorm: RmsNorm::new(parameters, &at("post_attention_layernorm"), width, eps)?,
            })
        };
        let model = Body {
            embed_tokens: Embedding::new(parameters, "model.embed_tokens", config.vocab_size, width)?,
            layers: (0..config.num_hidden_layers).map(|index| layer(parameters, index)).collect::<Result<_>>()?,
            norm: RmsNorm::new(parameters, "model.norm", width, config.rms_norm_eps)?,
            frequencies: config.frequencies(),
        };
        let lm_head = if config.tie_word_embeddings {
            parameters.ignore("lm_head.weight");
            None
        } else {
            Some(Linear::new(parameters, "lm_head", width, config.vocab_size, false)?)
        };
        Ok(Self { model, lm_head, vocab_size: config.vocab_size, max_positions: config.max_position_embeddings })
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The longest sequence that the positions were made for.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// The output head, `[vocabulary, width]`.
    pub fn head(&self) -> Tensor<2> {
        self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.weight(), Linear::weight)
    }

    /// The final norm, which runs on the rows that the head needs and no others.
    pub fn norm(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.model.norm.forward(hidden)
    }

    /// Hidden states before the final norm, `[batch.len(), width]`.
    pub fn hidden(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        let turns = Turns::new(&self.model.frequencies, &batch.positions, device);
        let segments = batch.segments.as_slice().into();
        let mut x = self.model.embed_tokens.forward(&batch.ids, device);
        for layer in &self.model.layers {
            let spans = layer.self_attn.spans(&segments);
            x = x.clone() + layer.self_attn.forward(layer.input_layernorm.forward(x), &turns, spans);
            x = x.clone() + layer.mlp.forward(layer.post_attention_layernorm.forward(x));
        }
        x
    }
}

/// Cosine and sine of every row's angles, `[rows, head_dim / 2]`.
struct Turns {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Turns {
    fn new(frequencies: &[f32], positions: &[u32], device: &Device) -> Self {
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| *p as f32 * f));
        let shape = [positions.len(), frequencies.len()];
        let tensor = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), device);
        Self { cos: tensor(angles().map(f32::cos).collect()), sin: tensor(angles().map(f32::sin).collect()) }
    }
}

impl Attention {
    fn spans(&self, segments: &std::sync::Arc<[super::kernels::attention::Segment]>) -> Spans {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        Spans { segments: segments.clone(), heads, kv_heads, head_dim }
    }

    fn forward(&self, x: Tensor<2>, turns: &Turns, spans: Spans) -> Tensor<2> {
        let turn = |x: Tensor<2>| rotary(x, turns.cos.clone(), turns.sin.clone());
        let q = turn(self.q_proj.forward(x.clone()));
        let k = turn(self.k_proj.forward(x.clone()));
        let v = self.v_proj.forward(x);
        self.o_proj.forward(attention(q, k, v, spans))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(swiglu(self.gate_proj.forward(x.clone()), self.up_proj.forward(x)))
    }
}
