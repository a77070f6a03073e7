//! Rotary positions (arXiv 2104.09864): their fields in config.json, and the angles of a batch.
//!
//! `transformers` 4 writes `rope_theta` and `rope_scaling` at the top level, version 5 puts both into
//! `rope_parameters`; either is read.

use burn::tensor::{Device, FloatDType, Tensor};
use serde::Deserialize;

use crate::kernels::embedding::table_rows;
use crate::kernels::indices::Indices;
use crate::kernels::rotary::rotary;
use crate::kernels::upload::upload;

/// The fields of config.json that rotary positions need.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RopeConfig {
    /// The base of the frequencies, as version 4 writes it.
    pub rope_theta: Option<f64>,
    rope_scaling: Option<Parameters>,
    rope_parameters: Option<Parameters>,
    original_max_position_embeddings: Option<f64>,
}

/// One set of rotary parameters.
#[derive(Debug, Clone, Default, Deserialize)]
struct Parameters {
    rope_type: Option<String>,
    /// The older name of `rope_type`.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Parameters {
    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.kind.as_deref()).unwrap_or("default")
    }
}

/// The frequencies of all pairs of dimensions, in radians per position; f32, as `transformers` computes them.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f32>,
    head_dim: usize,
}

impl RopeConfig {
    fn parameters(&self) -> Parameters {
        self.rope_scaling.clone().or_else(|| self.rope_parameters.clone()).unwrap_or_default()
    }

    /// The fraction of the dimensions of a head that rotate, if given.
    pub fn partial_rotary_factor(&self) -> Option<f64> {
        self.parameters().partial_rotary_factor
    }

    /// The longest sequence that a model with `max_position_embeddings` was trained for. With `linear` scaling that is the length
    /// before it, as the documentation of `transformers` has it, unless `original_max_position_embeddings` is given; with `llama3`
    /// it is the length after it.
    pub fn longest(&self, max_position_embeddings: usize) -> usize {
        let parameters = self.parameters();
        if parameters.kind() != "linear" {
            return max_position_embeddings;
        }
        let original = self.original(&parameters).unwrap_or(max_position_embeddings as f64);
        max_position_embeddings.max((original * parameters.factor.unwrap_or(1.0)) as usize)
    }

    /// `original_max_position_embeddings`, wherever it is written.
    fn original(&self, parameters: &Parameters) -> Option<f64> {
        self.original_max_position_embeddings.or(parameters.original_max_position_embeddings)
    }

    /// The frequencies of heads with `head_dim` dimensions, of which the first `rotary_dim` rotate. Their base is `theta` unless the
    /// parameters give another.
    ///
    /// # Errors
    /// The option that is wrong or not supported.
    pub fn rope(&self, theta: f64, head_dim: usize, rotary_dim: usize, positions: usize) -> Result<Rope, String> {
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(format!(
                "{rotary_dim} of {head_dim} dimensions of a head would rotate; it must be an even number"
            ));
        }
        let parameters = self.parameters();
        let theta = parameters.rope_theta.unwrap_or(theta) as f32;
        let plain = (0..rotary_dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / rotary_dim as f32));
        let frequencies = match parameters.kind() {
            "default" => plain.collect(),
            "linear" => {
                let factor = needed(parameters.factor, "factor")? as f32;
                plain.map(|frequency| frequency / factor).collect()
            }
            "llama3" => {
                let scaling = Llama3 {
                    factor: needed(parameters.factor, "factor")? as f32,
                    low: needed(parameters.low_freq_factor, "low_freq_factor")? as f32,
                    high: needed(parameters.high_freq_factor, "high_freq_factor")? as f32,
                    context: self.original(&parameters).unwrap_or(positions as f64) as f32,
                };
                plain.map(|frequency| scaling.apply(frequency)).collect()
            }
            other => return Err(format!("rope_type `{other}` is not supported; supported: default, linear, llama3")),
        };
        Ok(Rope { frequencies, head_dim })
    }
}

fn needed(value: Option<f64>, name: &str) -> Result<f64, String> {
    value.ok_or_else(|| format!("the rotary scaling has no `{name}`"))
}

/// Llama 3's scaling: low frequencies are divided by `factor`, high ones unchanged, those between interpolated.
struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    context: f32,
}

impl Llama3 {
    fn apply(&self, frequency: f32) -> f32 {
        let turns = self.context * frequency / (2.0 * std::f32::consts::PI);
        let smooth = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// Cosine, sine and negative sine of every row's angles, `[rows, rotary_dim / 2]`.
#[derive(Debug)]
pub struct Angles {
    tables: [Tensor<2>; 3],
    head_dim: usize,
}

impl Rope {
    /// The angles of rows at `positions`, for activations of type `dtype`.
    pub fn angles(&self, positions: &Indices, device: &Device, dtype: FloatDType) -> Angles {
        // Many rows have the same position: each is computed once, and a device makes the tables of the rows from theirs.
        let mut distinct = positions.host().to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let places = positions.host().iter().map(|position| distinct.partition_point(|other| other < position) as i32);
        let places: Indices = places.collect();
        let angles = || distinct.iter().flat_map(|p| self.frequencies.iter().map(move |f| *p as f32 * f));
        let values = angles().map(f32::cos).chain(angles().map(f32::sin)).collect::<Vec<_>>();
        let (count, half) = (distinct.len(), self.frequencies.len());
        let both = upload(values, [2 * count, half], device);
        let rows = |table: usize| table_rows(both.clone().narrow(0, table * count, count), places.clone()).cast(dtype);
        let (cos, sin) = (rows(0), rows(1));
        Angles { tables: [cos, sin.clone(), -sin], head_dim: self.head_dim }
    }
}

impl Angles {
    /// Rotates every head of every row: x `[rows, heads * head_dim]`.
    pub fn rotate(&self, x: Tensor<2>) -> Tensor<2> {
        rotary(x, self.tables.clone(), self.head_dim)
    }
}
