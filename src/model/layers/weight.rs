//! Weight matrices in their formats: a parameter as the checkpoint or the training has it, frozen and packed for `cpu`, or frozen in
//! bf16 on another device.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::kernels::embedding::table_rows;
use crate::kernels::indices::Indices;
use crate::kernels::input::Input;
use crate::kernels::layout::Layout;
use crate::kernels::linear::{linear, logits};
use crate::kernels::packed::{Packed, packed_linear};
use crate::kernels::precision::Precision;
use crate::kernels::token_kl::{Compared, packed_token_kl, token_kl};
use crate::kernels::token_logps::{packed_token_logps, token_logps};
use crate::model::device::DeviceSpec;

/// The format of the weights of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// f32, in the layout of the checkpoint.
    Plain,
    /// Frozen, and packed for the products of `cpu`.
    Packed(Precision),
    /// Frozen, in bf16, on a device that multiplies bf16. What layers multiply, and what they compute from that, is bf16, with sums in
    /// f32; the residual stream, norms and the logits of the head are f32.
    Bf16,
    /// f32, in the layout of the checkpoint; products round what they multiply to TF32, with sums in f32.
    Tf32,
}

impl WeightFormat {
    /// The format of frozen weights on `device` for the requested `precision`; f32 if the device has no faster products in it.
    pub fn frozen(spec: DeviceSpec, device: &Device, precision: Precision) -> Self {
        match (spec, precision) {
            (DeviceSpec::Cpu, Precision::Tf32) => Self::frozen(spec, device, Precision::F32),
            (DeviceSpec::Cpu, wanted) if Packed::is_fast(wanted) => Self::Packed(wanted),
            (DeviceSpec::Cpu, _) if Packed::is_fast(Precision::F32) => Self::Packed(Precision::F32),
            (DeviceSpec::Cpu, _) => Self::Plain,
            #[cfg(feature = "tch")]
            (DeviceSpec::LibTorchCuda(_), Precision::Tf32) if crate::kernels::set_tf32(false) => Self::Tf32,
            (_, Precision::Bf16) if device.supports_dtype(FloatDType::BF16) => Self::Bf16,
            _ => Self::Plain,
        }
    }

    /// The precision of products.
    pub fn precision(self) -> Precision {
        match self {
            Self::Plain => Precision::F32,
            Self::Packed(precision) => precision,
            Self::Bf16 => Precision::Bf16,
            Self::Tf32 => Precision::Tf32,
        }
    }
}

/// A weight matrix.
#[allow(clippy::large_enum_variant, reason = "one for each layer of a model, and most are of the large variant")]
#[derive(Module, Debug)]
pub enum Weight {
    /// In the layout of the checkpoint; f32, or frozen bf16.
    Plain(Param<Tensor<2>>),
    /// Packed for fast products, `[out, in]`.
    Frozen(Frozen),
}

/// A weight that does not train.
#[derive(Module, Debug)]
pub struct Frozen {
    #[module(skip)]
    packed: Arc<Packed>,
}

impl From<Arc<Packed>> for Weight {
    fn from(packed: Arc<Packed>) -> Self {
        Self::Frozen(Frozen { packed })
    }
}

impl Weight {
    /// The shape: that of the checkpoint, or `[out, in]` if it is packed.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Plain(weight) => weight.dims(),
            Self::Frozen(frozen) => frozen.packed.shape(),
        }
    }

    /// The type of what products with it take and give: that of the weight, or f32 if it is packed.
    pub fn dtype(&self) -> FloatDType {
        match self {
            Self::Plain(weight) => weight.dtype().into(),
            Self::Frozen(_) => FloatDType::F32,
        }
    }

    /// The product with `x` `[rows, in]`, `[rows, out]`, of type [`Self::dtype`]; `layout` is that of a plain weight.
    pub fn times(&self, x: impl Into<Input>, layout: Layout) -> Tensor<2> {
        let x = x.into();
        match self {
            Self::Plain(weight) => {
                let weight = weight.val();
                linear(x.cast(weight.dtype()), weight, layout)
            }
            Self::Frozen(frozen) => packed_linear(x.tensor(), frozen.packed.clone()),
        }
    }

    /// The rows of a table for `ids` in f32, `[ids.len(), width]`.
    pub fn select(&self, ids: &Indices, device: &Device) -> Tensor<2> {
        match self {
            Self::Plain(weight) => table_rows(weight.val(), ids.clone()).cast(FloatDType::F32),
            Self::Frozen(frozen) => {
                let rows = frozen.packed.rows(ids.host().iter().map(|id| *id as usize));
                Tensor::from_data(TensorData::new(rows, [ids.len(), frozen.packed.shape()[1]]), device)
            }
        }
    }

    /// The weight as an output head, `[vocabulary, width]`.
    pub fn head(&self) -> Head {
        match self {
            Self::Plain(weight) => Head::Plain(weight.val()),
            Self::Frozen(frozen) => Head::Frozen(frozen.packed.clone()),
        }
    }
}

/// An output head, `[vocabulary, width]`.
#[expect(clippy::large_enum_variant, reason = "lives for one call")]
pub enum Head {
    /// As it is stored.
    Plain(Tensor<2>),
    /// Packed for fast products.
    Frozen(Arc<Packed>),
}

impl Head {
    /// The head with `delta` `[vocabulary, width]` added, in f32.
    pub fn plus(self, delta: Tensor<2>) -> Self {
        match self {
            Self::Plain(weight) => Self::Plain(weight.cast(FloatDType::F32) + delta),
            Self::Frozen(packed) => Self::Plain(unpacked(&packed, &delta.device()) + delta),
        }
    }

    /// The log-probability of `targets[i]` at every row of `hidden` `[rows, width]`.
    pub fn token_logps(self, hidden: Tensor<2>, targets: Indices) -> Tensor<1> {
        match self {
            Self::Plain(weight) => token_logps(hidden.cast(weight.dtype()), weight, targets),
            Self::Frozen(packed) => packed_token_logps(hidden, packed, targets),
        }
    }

    /// As [`Self::token_logps`], with the comparison to a reference model: its head `other` and hidden states `rows`
    /// `[rows, width of the reference]`.
    pub fn token_kl(self, hidden: Tensor<2>, (other, rows): (Self, Tensor<2>), targets: Indices) -> Compared {
        let own = match self {
            Self::Plain(weight) => weight,
            Self::Frozen(packed) => unpacked(&packed, &hidden.device()),
        };
        let hidden = hidden.cast(own.dtype());
        match other {
            Self::Plain(weight) => token_kl([hidden, own], [rows, weight], targets),
            Self::Frozen(packed) => packed_token_kl([hidden, own], (rows, packed), targets),
        }
    }

    /// The logits `[rows, vocabulary]` in f32 of every row of `hidden` `[rows, width]`, without a gradient.
    pub fn logits(self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Plain(weight) => logits(hidden, weight),
            Self::Frozen(packed) => packed_linear(hidden, packed),
        }
    }
}

/// The weight in f32.
fn unpacked(packed: &Packed, device: &Device) -> Tensor<2> {
    let rows = packed.rows(0..packed.shape()[0]);
    Tensor::from_data(TensorData::new(rows, packed.shape()), device)
}
