//! Rows of an embedding table.
//!
//! The backward pass of burn makes a table of zeros for the few rows of a batch, and adds it to the gradient that exists already,
//! which with a tied head has every entry. Here the rows are added to that gradient in place.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, get_or_init_device_settings};
use burn::tensor::{IndexingUpdateOp, Tensor, TensorData};

/// The rows `ids` of a table `[entries, width]`: `[ids, width]`.
pub fn table_rows(table: Tensor<2>, ids: Arc<[i32]>) -> Tensor<2> {
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
    fn table_rows(table: FloatTensor<Self>, ids: Arc<[i32]>) -> FloatTensor<Self> {
        let ids = int_tensor::<Self>(ids.iter().copied(), &table.device());
        Self::float_select(table, 0, ids)
    }
}

impl Embedding for Flex {}
#[cfg(feature = "tch")]
impl Embedding for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Embedding for burn::backend::Cube {}

fn int_tensor<B: Backend>(ids: impl Iterator<Item = i32>, device: &Device<B>) -> IntTensor<B> {
    let ids: Vec<i32> = ids.collect();
    let (size, dtype) = (ids.len(), get_or_init_device_settings::<B>(device).int_dtype);
    B::int_from_data(TensorData::new(ids, [size]).convert_dtype(dtype.into()), device)
}

impl<B: Embedding, C: CheckpointStrategy> Embedding for Autodiff<B, C> {
    fn table_rows(table: FloatTensor<Self>, ids: Arc<[i32]>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Embedding> Backward<B, 1> for Node {
            type State = (FloatTensor<Autodiff<B>>, Arc<[i32]>);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (table, ids) = ops.state;
                let [Some(node)] = ops.parents else { return };
                let (device, dtype) = (grad.device(), grad.dtype());
                let zeros = |rows| B::float_zeros([rows, grad.shape()[1]].into(), &device, dtype.into());
                let so_far = grads.remove::<B>(&table).unwrap_or_else(|| zeros(table.shape()[0]));
                // The rows of one entry are summed first, so that the result is bitwise the same whether the gradient of a tied
                // head is added before or after.
                let mut entries: BTreeMap<i32, i32> = ids.iter().map(|id| (*id, 0)).collect();
                entries.values_mut().zip(0..).for_each(|(place, index)| *place = index);
                let places = int_tensor::<B>(ids.iter().map(|id| entries[id]), &device);
                let sums = B::float_select_assign(zeros(entries.len()), 0, places, grad.clone(), IndexingUpdateOp::Add);
                let entries = int_tensor::<B>(entries.into_keys(), &device);
                grads.register::<B>(node.id, B::float_select_assign(so_far, 0, entries, sums, IndexingUpdateOp::Add));
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
