//! Log-probabilities of given tokens under a policy and its reference, and the KL divergence of the two at every token, fused with
//! both output heads:
//!
//! `KL_i = sum_v q_iv (log q_iv - log p_iv)`, where `p` is the policy's and `q` the reference's distribution at row `i`.
//!
//! As in [`token_logps`](super::token_logps), the `[rows, vocabulary]` logits are never stored: one pass over the vocabulary gives
//! both log-sum-exps and the sum of `q (u - z)`, where `z` and `u` are the logits of policy and reference. With the gradients `a` of
//! the log-probability and `b` of the divergence, the backward pass recomputes the logits; their gradient is
//! `a onehot + (b - a) p - b q`.

mod flex;
mod portable;

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};

use super::indices::Indices;
use super::packed::Packed;
pub(super) use portable::{portable, portable_backward};

/// The comparison of a policy with its reference at given tokens, each `[rows]`.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The policy's log-probabilities.
    pub logps: Tensor<1>,
    /// KL(reference || policy) of the next-token distributions, in nats.
    pub divergences: Tensor<1>,
    /// The log-probabilities of the reference, without a gradient.
    pub reference: Tensor<1>,
}

impl Compared {
    /// From `[2, rows]` and `[3, rows]`; see [`TokenKl::token_kl`].
    fn new(tracked: Tensor<2>, constant: Tensor<2>) -> Self {
        let row = |tensor: &Tensor<2>, row: usize| tensor.clone().narrow(0, row, 1).flatten(0, 1);
        Self { logps: row(&tracked, 0), divergences: row(&tracked, 1), reference: row(&constant, 2) }
    }
}

/// Compares policy and reference, each with hidden states `[rows, d]` and a head `[vocabulary, d]`, at the tokens `targets`. The `d`
/// of the two may differ; the vocabulary is the same, and every target is smaller.
pub fn token_kl(policy: [Tensor<2>; 2], reference: [Tensor<2>; 2], targets: Indices) -> Compared {
    let ([hidden, head], [reference, reference_head]) =
        (policy.map(Tensor::into_dispatch), reference.map(Tensor::into_dispatch));
    let (tracked, constant) = <Dispatch as TokenKl>::token_kl(hidden, head, reference, reference_head, targets);
    Compared::new(Tensor::from_dispatch(tracked), Tensor::from_dispatch(constant))
}

/// As [`token_kl`], for a reference with a packed head.
pub fn packed_token_kl(
    [hidden, head]: [Tensor<2>; 2],
    (reference, reference_head): (Tensor<2>, Arc<Packed>),
    targets: Indices,
) -> Compared {
    let [hidden, head, reference] = [hidden, head, reference].map(Tensor::into_dispatch);
    let (tracked, constant) = <Dispatch as TokenKl>::packed_token_kl(hidden, head, reference, reference_head, targets);
    Compared::new(Tensor::from_dispatch(tracked), Tensor::from_dispatch(constant))
}

/// The kernel; see [`token_kl`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait TokenKl: Backend {
    /// `[2, rows]`: log-probabilities and divergences. `[3, rows]`, without gradients: log-sum-exps of the policy and of the
    /// reference, and the reference's log-probabilities.
    fn token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: FloatTensor<Self>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(hidden, head, reference, reference_head, targets)
    }

    /// As [`Self::token_kl`].
    fn packed_token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: Arc<Packed>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let reference_head = reference_head.unpack::<Self>(&hidden.device());
        Self::token_kl(hidden, head, reference, reference_head, targets)
    }

    /// Gradients with respect to the hidden states and, if `head_trains`, the head of the policy. `rows` `[4, rows]` has the
    /// log-sum-exps of policy and reference, and the gradients of log-probabilities and divergences.
    fn token_kl_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: Indices,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        portable_backward::<Self>(hidden, head, reference, reference_head, rows, targets, head_trains)
    }

    /// As [`Self::token_kl_backward`].
    fn packed_token_kl_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: Arc<Packed>,
        rows: FloatTensor<Self>,
        targets: Indices,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let reference_head = reference_head.unpack::<Self>(&hidden.device());
        Self::token_kl_backward(hidden, head, reference, reference_head, rows, targets, head_trains)
    }
}

#[cfg(feature = "tch")]
impl TokenKl for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenKl for burn::backend::Cube {}

/// The output head of the reference.
#[derive(Debug, Clone)]
enum ReferenceHead<B: Backend> {
    Plain(FloatTensor<B>),
    Packed(Arc<Packed>),
}

impl<B: TokenKl, C: CheckpointStrategy> TokenKl for Autodiff<B, C> {
    fn token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: FloatTensor<Self>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        tracked::<B, C>(hidden, head, reference, ReferenceHead::Plain(reference_head.into_primitive()), targets)
    }

    fn packed_token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: Arc<Packed>,
        targets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        tracked::<B, C>(hidden, head, reference, ReferenceHead::Packed(reference_head), targets)
    }
}

/// See [`TokenKl::token_kl`].
type Found<B> = (FloatTensor<B>, FloatTensor<B>);

/// The forward pass with autodiff: a node for the hidden states and head of the policy, none for the reference.
fn tracked<B: TokenKl, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    head: FloatTensor<Autodiff<B, C>>,
    reference: FloatTensor<Autodiff<B, C>>,
    reference_head: ReferenceHead<B>,
    targets: Indices,
) -> Found<Autodiff<B, C>> {
    #[derive(Debug)]
    struct Node;
    impl<B: TokenKl> Backward<B, 2> for Node {
        type State = ([FloatTensor<B>; 4], ReferenceHead<B>, Indices);
        fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
            let grad = grads.consume::<B>(&ops.node);
            let ([hidden, head, reference, lse], reference_head, targets) = ops.state;
            let rows = B::float_cat(vec![lse, grad], 0);
            let trains = ops.parents[1].is_some();
            let (grad_hidden, grad_head) = match reference_head {
                ReferenceHead::Plain(other) => {
                    B::token_kl_backward(hidden, head, reference, other, rows, targets, trains)
                }
                ReferenceHead::Packed(other) => {
                    B::packed_token_kl_backward(hidden, head, reference, other, rows, targets, trains)
                }
            };
            for (parent, grad) in ops.parents.into_iter().zip([Some(grad_hidden), grad_head]) {
                if let (Some(parent), Some(grad)) = (parent, grad) {
                    grads.register::<B>(parent.id, grad);
                }
            }
        }
    }
    let nodes = [hidden.node(), head.node()];
    let [hidden, head, reference] = [hidden, head, reference].map(|tensor| tensor.into_primitive());
    let (out, constant) = {
        let (hidden, head, reference, targets) = (hidden.clone(), head.clone(), reference.clone(), targets.clone());
        match reference_head.clone() {
            ReferenceHead::Plain(other) => B::token_kl(hidden, head, reference, other, targets),
            ReferenceHead::Packed(other) => B::packed_token_kl(hidden, head, reference, other, targets),
        }
    };
    let untracked = <Autodiff<B, C> as AutodiffBackend>::from_inner(constant.clone());
    let out = match Node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let lse = B::float_slice(constant, &[Slice::from(0..2)]);
            prep.finish(([hidden, head, reference, lse], reference_head, targets), out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    (out, untracked)
}
