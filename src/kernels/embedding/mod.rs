//! Rows of an embedding table.
//!
//! The backward pass of burn makes a table of zeros for the few rows of a batch, and adds it to the gradient that exists already,
//! which with a tied head has every entry. Here the rows are added to that gradient in place.

#[cfg(feature = "tch")]
mod libtorch;

use std::collections::BTreeMap;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, IndexingUpdateOp, Tensor};

use super::indices::{Indices, upload};

/// The rows `ids` of a table `[entries, width]`: `[ids, width]`.
pub fn table_rows(table: Tensor<2>, ids: Indices) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Embedding>::table_rows(table.into_dispatch(), ids))
}

/// The kernel; see [`table_rows`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Embedding: Backend {
    /// Rows of a table.
    fn table_rows(table: FloatTensor<Self>, ids: Indices) -> FloatTensor<Self> {
        let ids = ids.tensor::<Self>(&table.device());
        Self::float_select(table, 0, ids)
    }

    /// The gradient of a table: `sum` with the gradients `rows` `[ids, width]` added to its rows `ids`.
    fn add_rows(sum: FloatTensor<Self>, ids: Indices, rows: FloatTensor<Self>) -> FloatTensor<Self> {
        portable_add_rows::<Self>(sum, &ids, rows)
    }
}

/// The rows of one entry are summed first, so that the result is bitwise the same whether the gradient of a tied head is added before
/// or after.
pub(super) fn portable_add_rows<B: Backend>(
    sum: FloatTensor<B>,
    ids: &Indices,
    rows: FloatTensor<B>,
) -> FloatTensor<B> {
    let (device, width, dtype) = (sum.device(), sum.shape()[1], rows.dtype());
    let mut entries: BTreeMap<i32, i32> = ids.host().iter().map(|id| (*id, 0)).collect();
    entries.values_mut().zip(0..).for_each(|(place, index)| *place = index);
    let places: Vec<i32> = ids.host().iter().map(|id| entries[id]).collect();
    let zeros = B::float_zeros([entries.len(), width].into(), &device, dtype.into());
    let sums = B::float_select_assign(zeros, 0, upload::<B>(&places, &device), rows, IndexingUpdateOp::Add);
    let entries: Vec<i32> = entries.into_keys().collect();
    let sums = B::float_cast(sums, sum.dtype().into());
    B::float_select_assign(sum, 0, upload::<B>(&entries, &device), sums, IndexingUpdateOp::Add)
}

impl Embedding for Flex {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Embedding for burn::backend::Cube {}

impl<B: Embedding, C: CheckpointStrategy> Embedding for Autodiff<B, C> {
    fn table_rows(table: FloatTensor<Self>, ids: Indices) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Embedding> Backward<B, 1> for Node {
            type State = (FloatTensor<Autodiff<B>>, Indices);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (table, ids) = ops.state;
                let [Some(node)] = ops.parents else { return };
                let sum = grads.remove::<B>(&table).unwrap_or_else(|| {
                    let [rows, width] = [table.shape()[0], grad.shape()[1]];
                    // Many rows of a table in bf16 may have one entry, so they add up in f32.
                    B::float_zeros([rows, width].into(), &grad.device(), FloatDType::F32)
                });
                grads.register::<B>(node.id, B::add_rows(sum, ids, grad));
            }
        }
        let nodes = [table.node()];
        let out = B::table_rows(table.clone().into_primitive(), ids.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((table, ids), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
