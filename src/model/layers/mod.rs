//! The layers that architectures are made of: linear layers, norms and embeddings in the layout of checkpoints.

pub mod cache;
pub mod context;
pub mod lora;
pub(super) mod overlay;
pub mod parameters;
pub(super) mod random;
pub mod rope;
pub(super) mod visit;
pub mod weight;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::error::Result;
use crate::kernels;
use crate::kernels::indices::Indices;
use crate::kernels::input::Input;
use crate::kernels::layout::Layout;
use lora::Adapter;
use parameters::Parameters;
use weight::{Head, Weight};

/// A linear layer, with an adapter if LoRA trains it.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Param<Tensor<1>>>,
    adapter: Option<Adapter>,
    #[module(skip)]
    layout: Layout,
}

impl Linear {
    /// The layer `name` of the checkpoint, with a weight `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(parameters: &mut Parameters, name: &str, input: usize, output: usize, bias: bool) -> Result<Self> {
        Self::of_layout(parameters, name, [input, output], bias, Layout::OutIn)
    }

    /// The layer `name` of the checkpoint, with a weight `[in, out]` and a bias: GPT-2's `Conv1D`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn conv1d(parameters: &mut Parameters, name: &str, input: usize, output: usize) -> Result<Self> {
        Self::of_layout(parameters, name, [input, output], true, Layout::InOut)
    }

    fn of_layout(
        parameters: &mut Parameters,
        name: &str,
        [input, output]: [usize; 2],
        bias: bool,
        layout: Layout,
    ) -> Result<Self> {
        let (weight, adapter) = parameters.linear(name, [input, output], layout)?;
        let bias = bias.then(|| parameters.zeros(&format!("{name}.bias"), output)).transpose()?;
        Ok(Self { weight, bias, adapter, layout })
    }

    /// The type of the products of the layer.
    pub fn dtype(&self) -> FloatDType {
        self.weight.dtype()
    }

    /// x `[rows, in]`, result `[rows, out]` of type [`Self::dtype`].
    pub fn forward(&self, x: impl Into<Input>) -> Tensor<2> {
        let x = x.into().cast(self.dtype().into());
        let x = if self.adapter.is_some() { Input::shared(x) } else { x };
        let added = self.adapter.as_ref().map(|adapter| adapter.forward(x.clone()));
        let y = self.weight.times(x, self.layout);
        let y = match &self.bias {
            Some(bias) => y + bias.val().cast(self.dtype()).unsqueeze(),
            None => y,
        };
        match added {
            Some(added) => y + added,
            None => y,
        }
    }

    /// The shape of the weight.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.shape()
    }

    /// The layer as an output head, with its adapter merged.
    pub fn head(&self) -> Head {
        match &self.adapter {
            Some(adapter) => self.weight.head().plus(adapter.delta()),
            None => self.weight.head(),
        }
    }
}

/// Root-mean-square norm with a learned scale.
#[derive(Module, Debug)]
pub struct RmsNorm {
    weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// The layer `name` of the checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(parameters: &mut Parameters, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: parameters.ones(&format!("{name}.weight"), width)?, eps })
    }

    /// The norm of every row of x `[rows, width]`, of type `out`.
    pub fn forward(&self, x: impl Into<Input>, out: FloatDType) -> Tensor<2> {
        kernels::rms_norm::rms_norm(x, self.weight.val(), self.eps, out)
    }

    /// The norm of every head of every row of x `[rows, heads * head_dim]`, of the type of x.
    pub fn forward_heads(&self, x: Tensor<2>, head_dim: usize) -> Tensor<2> {
        let ([rows, width], dtype) = (x.dims(), x.dtype());
        self.forward(x.reshape([rows * width / head_dim, head_dim]), dtype.into()).reshape([rows, width])
    }
}

/// Layer norm with a learned scale and shift.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    eps: f64,
}

impl LayerNorm {
    /// The layer `name` of the checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(parameters: &mut Parameters, name: &str, width: usize, eps: f64) -> Result<Self> {
        let weight = parameters.ones(&format!("{name}.weight"), width)?;
        Ok(Self { weight, bias: parameters.zeros(&format!("{name}.bias"), width)?, eps })
    }

    /// The norm of every row of x `[rows, width]`, of type `out`.
    pub fn forward(&self, x: Tensor<2>, out: FloatDType) -> Tensor<2> {
        kernels::layer_norm::layer_norm(x, self.weight.val(), self.bias.val(), self.eps, out)
    }
}

/// A table of token vectors, `[vocabulary, width]`.
#[derive(Module, Debug)]
pub struct Embedding {
    weight: Weight,
}

impl Embedding {
    /// The table `name` of the checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(parameters: &mut Parameters, name: &str, entries: usize, width: usize) -> Result<Self> {
        Ok(Self { weight: parameters.table(&format!("{name}.weight"), [entries, width])? })
    }

    /// The vectors of `ids` in f32: `[ids.len(), width]`.
    pub fn forward(&self, ids: &Indices, device: &Device) -> Tensor<2> {
        self.weight.select(ids, device)
    }

    /// The type of the table.
    pub fn dtype(&self) -> FloatDType {
        self.weight.dtype()
    }

    /// Entries and width of the table.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.shape()
    }

    /// Entries of the table.
    pub fn entries(&self) -> usize {
        self.shape()[0]
    }

    /// The table as an output head.
    pub fn head(&self) -> Head {
        self.weight.head()
    }
}
