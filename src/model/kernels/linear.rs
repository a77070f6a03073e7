//! A linear layer on rows: `y = x W^T` with the weight as checkpoints store it, `[out, in]`.
//!
//! burn's own would give the weight's gradient as a transposed view; here it comes out in the weight's layout, and
//! is not computed at all for frozen weights.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// `x W^T`: x `[rows, in]`, weight `[out, in]`, result `[rows, out]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Linear>::rows_linear(x.into_dispatch(), weight.into_dispatch()))
}

/// The kernel; see [`linear`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Linear: Backend {
    /// `x W^T`.
    fn rows_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::<Self>(x, weight)
    }
}

pub(super) fn portable<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, B::float_transpose(weight))
}

impl Linear for Flex {}
#[cfg(feature = "tch")]
impl Linear for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Linear for burn::backend::Cube {}

impl<B: Linear, C: CheckpointStrategy> Linear for Autodiff<B, C> {
    fn rows_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Linear> Backward<B, 2> for Node {
            /// x is kept only for a weight that trains, the weight only for an x that has a gradient.
            type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight) = ops.state;
                let [x_node, weight_node] = ops.parents;
                if let (Some(node), Some(weight)) = (x_node, weight) {
                    grads.register::<B>(node.id, B::float_matmul(grad.clone(), weight));
                }
                if let (Some(node), Some(x)) = (weight_node, x) {
                    grads.register::<B>(node.id, B::float_matmul(B::float_transpose(grad), x));
                }
            }
        }
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let out = B::rows_linear(x.clone(), weight.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((weight_tracked.then_some(x), x_tracked.then_some(weight)), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
