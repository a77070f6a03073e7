//! Log-probabilities of given tokens, fused with the output head: `logp_i = h_i . w_{t_i} - logsumexp_v(h_i . w_v)`.
//!
//! The `[rows, vocabulary]` logits are never stored: they are computed in blocks, reduced to one log-sum-exp per row, and recomputed
//! block by block in the backward pass.

#[cfg(feature = "tch")]
mod cuda;
mod flex;
#[cfg(feature = "tch")]
mod libtorch;
mod portable;

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use super::indices::Indices;
use super::packed::Packed;
pub(super) use portable::{portable, portable_backward};

/// Rows whose logits a body for devices holds at a time, enough for a product to fill a GPU: 1 GiB in f32 for a vocabulary of 128 Ki.
pub const ROWS: usize = 2048;

/// Log-probability of `targets[i]` at every row: hidden `[rows, d]`, head `[vocabulary, d]` of the same type, result `[rows]` in f32.
///
/// Every target must be smaller than the vocabulary.
pub fn token_logps(hidden: Tensor<2>, head: Tensor<2>, targets: Indices) -> Tensor<1> {
    let (logps, _) = <Dispatch as TokenLogps>::token_logps(hidden.into_dispatch(), head.into_dispatch(), targets);
    Tensor::from_dispatch(logps)
}

/// As [`token_logps`], for a frozen head.
pub fn packed_token_logps(hidden: Tensor<2>, head: Arc<Packed>, targets: Indices) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as TokenLogps>::packed_token_logps(hidden.into_dispatch(), head, targets))
}

/// The kernel; see [`token_logps`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait TokenLogps: Backend {
    /// Log-probabilities `[rows]` and log-sum-exp `[rows]`.
    fn token_logps(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(hidden, head, targets)
    }

    /// Log-probabilities `[rows]` under a frozen head.
    fn packed_token_logps(hidden: FloatTensor<Self>, head: Arc<Packed>, targets: Indices) -> FloatTensor<Self> {
        let device = hidden.device();
        Self::token_logps(hidden, head.unpack::<Self>(&device), targets).0
    }

    /// Gradients with respect to hidden and, if `head_trains`, head: with `e = (onehot - softmax) * grad`, `e @ head` and
    /// `e^T @ hidden`.
    fn token_logps_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        targets: Indices,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        portable_backward::<Self>(hidden, head, lse, grad, targets, head_trains)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenLogps for burn::backend::Cube {}

impl<B: TokenLogps, C: CheckpointStrategy> TokenLogps for Autodiff<B, C> {
    fn token_logps(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Node;
        impl<B: TokenLogps> Backward<B, 2> for Node {
            type State = ([FloatTensor<B>; 3], Indices);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([hidden, head, lse], targets) = ops.state;
                let head_trains = ops.parents[1].is_some();
                let (grad_hidden, grad_head) = B::token_logps_backward(hidden, head, lse, grad, targets, head_trains);
                for (parent, grad) in ops.parents.into_iter().zip([Some(grad_hidden), grad_head]) {
                    if let (Some(parent), Some(grad)) = (parent, grad) {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [hidden.node(), head.node()];
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        let (logps, lse) = B::token_logps(hidden.clone(), head.clone(), targets.clone());
        let untracked = <Self as AutodiffBackend>::from_inner(lse.clone());
        let logps = match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([hidden, head, lse], targets), logps),
            OpsKind::UnTracked(prep) => prep.finish(logps),
        };
        (logps, untracked)
    }
}
