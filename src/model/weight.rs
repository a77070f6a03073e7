//! A weight matrix: a parameter that trains, or numbers frozen in bf16.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::kernels::bf16::{Packed, packed_linear};
use super::kernels::linear::{Layout, linear};
use super::kernels::token_logps::{packed_token_logps, token_logps};

/// A weight matrix.
#[derive(Module, Debug)]
pub enum Weight {
    /// In f32, as the checkpoint lays it out.
    Plain(Param<Tensor<2>>),
    /// In bf16, `[out, in]`.
    Frozen(Frozen),
}

/// Numbers that do not train.
#[derive(Module, Debug)]
pub struct Frozen {
    #[module(skip)]
    packed: Arc<Packed>,
}

impl From<Packed> for Weight {
    fn from(packed: Packed) -> Self {
        Self::Frozen(Frozen { packed: Arc::new(packed) })
    }
}

impl Weight {
    /// Entries of a table, outputs of a head: the first dimension.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(weight) => weight.dims()[0],
            Self::Frozen(frozen) => frozen.packed.shape()[0],
        }
    }

    /// The product with rows `[rows, in]`; `layout` is that of a plain weight.
    pub fn times(&self, x: Tensor<2>, layout: Layout) -> Tensor<2> {
        match self {
            Self::Plain(weight) => linear(x, weight.val(), layout),
            Self::Frozen(frozen) => packed_linear(x, frozen.packed.clone()),
        }
    }

    /// The rows of a table for `ids`, `[ids.len(), width]`.
    pub fn select(&self, ids: &[i32], device: &Device) -> Tensor<2> {
        match self {
            Self::Plain(weight) => {
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.to_vec(), [ids.len()]), device);
                weight.val().select(0, ids)
            }
            Self::Frozen(frozen) => {
                let rows: Vec<f32> = ids.iter().flat_map(|id| frozen.packed.row(*id as usize)).collect();
                Tensor::from_data(TensorData::new(rows, [ids.len(), frozen.packed.shape()[1]]), device)
            }
        }
    }

    /// The log-probability of `targets[i]` at every row, with this weight `[vocabulary, width]` as the output head.
    pub fn token_logps(&self, hidden: Tensor<2>, targets: Arc<[i32]>) -> Tensor<1> {
        match self {
            Self::Plain(weight) => token_logps(hidden, weight.val(), targets),
            Self::Frozen(frozen) => packed_token_logps(hidden, frozen.packed.clone(), targets),
        }
    }
}
