//! Weight matrices in their formats: a trainable parameter, frozen and packed for `cpu`, or frozen in bf16 on another device.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::kernels::embedding::table_rows;
use crate::kernels::layout::Layout;
use crate::kernels::linear::linear;
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
    /// Frozen, in bf16, on a device that multiplies bf16. The products of layers are bf16; the residual stream, norms, attention and
    /// the products of the head stay f32.
    Bf16,
}

impl WeightFormat {
    /// The format of frozen weights on `device` for the requested `precision`; f32 if the device has no faster products in it.
    pub fn frozen(spec: DeviceSpec, device: &Device, precision: Precision) -> Self {
        match (spec, precision) {
            (DeviceSpec::Cpu, wanted) if Packed::is_fast(wanted) => Self::Packed(wanted),
            (DeviceSpec::Cpu, _) if Packed::is_fast(Precision::F32) => Self::Packed(Precision::F32),
            (DeviceSpec::Cpu, _) => Self::Plain,
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
    /// Size of the first dimension.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(weight) => weight.dims()[0],
            Self::Frozen(frozen) => frozen.packed.shape()[0],
        }
    }

    /// The product with `x` `[rows, in]`, `[rows, out]`; `layout` is that of a plain weight.
    pub fn times(&self, x: Tensor<2>, layout: Layout) -> Tensor<2> {
        match self {
            Self::Plain(weight) => {
                let weight = weight.val();
                linear(x.cast(weight.dtype()), weight, layout).cast(FloatDType::F32)
            }
            Self::Frozen(frozen) => packed_linear(x, frozen.packed.clone()),
        }
    }

    /// The rows of a table for `ids`, `[ids.len(), width]`.
    pub fn select(&self, ids: &[i32], device: &Device) -> Tensor<2> {
        match self {
            Self::Plain(weight) => table_rows(weight.val(), ids.into()).cast(FloatDType::F32),
            Self::Frozen(frozen) => {
                let rows = frozen.packed.rows(ids.iter().map(|id| *id as usize));
                Tensor::from_data(TensorData::new(rows, [ids.len(), frozen.packed.shape()[1]]), device)
            }
        }
    }

    /// The weight as an output head, `[vocabulary, width]`.
    pub fn head(&self) -> Head {
        match self {
            Self::Plain(weight) => Head::Plain(weight.val().cast(FloatDType::F32)),
            Self::Frozen(frozen) => Head::Frozen(frozen.packed.clone()),
        }
    }
}

/// An output head, `[vocabulary, width]`.
#[expect(clippy::large_enum_variant, reason = "lives for one call")]
pub enum Head {
    /// In f32.
    Plain(Tensor<2>),
    /// Packed for fast products.
    Frozen(Arc<Packed>),
}

impl Head {
    /// The head with `delta` `[vocabulary, width]` added, in f32.
    pub fn plus(self, delta: Tensor<2>) -> Self {
        match self {
            Self::Plain(weight) => Self::Plain(weight + delta),
            Self::Frozen(packed) => Self::Plain(unpacked(&packed, &delta.device()) + delta),
        }
    }

    /// Entries of the vocabulary.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(weight) => weight.dims()[0],
            Self::Frozen(packed) => packed.shape()[0],
        }
    }

    /// Size of a hidden state.
    pub fn width(&self) -> usize {
        match self {
            Self::Plain(weight) => weight.dims()[1],
            Self::Frozen(packed) => packed.shape()[1],
        }
    }

    /// The log-probability of `targets[i]` at every row of `hidden` `[rows, width]`.
    pub fn token_logps(self, hidden: Tensor<2>, targets: Arc<[i32]>) -> Tensor<1> {
        match self {
            Self::Plain(weight) => token_logps(hidden, weight, targets),
            Self::Frozen(packed) => packed_token_logps(hidden, packed, targets),
        }
    }

    /// As [`Self::token_logps`], with the comparison to a reference model: its head `other` and hidden states `rows`
    /// `[rows, width of the reference]`.
    pub fn token_kl(self, hidden: Tensor<2>, (other, rows): (Self, Tensor<2>), targets: Arc<[i32]>) -> Compared {
        let own = match self {
            Self::Plain(weight) => weight,
            Self::Frozen(packed) => unpacked(&packed, &hidden.device()),
        };
        match other {
            Self::Plain(weight) => token_kl([hidden, own], [rows, weight], targets),
            Self::Frozen(packed) => packed_token_kl([hidden, own], (rows, packed), targets),
        }
    }

    /// The logits `[rows, vocabulary]` of every row of `hidden` `[rows, width]`.
    pub fn logits(self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Plain(weight) => linear(hidden, weight, Layout::OutIn),
            Self::Frozen(packed) => packed_linear(hidden, packed),
        }
    }
}

/// The weight in f32.
fn unpacked(packed: &Packed, device: &Device) -> Tensor<2> {
    let rows = packed.rows(0..packed.shape()[0]);
    Tensor::from_data(TensorData::new(rows, packed.shape()), device)
}
