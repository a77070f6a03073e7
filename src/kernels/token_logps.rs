//! Log-probabilities of given tokens, fused with the output head: `logp_i = h_i . w_{t_i} - logsumexp_v(h_i . w_v)`.
//!
//! The `[rows, vocabulary]` logits never exist: they are computed in blocks, reduced to one log-sum-exp a row, and
//! computed again block by block in the backward pass.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};
use rayon::prelude::*;

use super::packed::{Numbers, Packed};
use super::simd::{exp, exp_shifted, max, vectorized};
use super::vocabulary::{
    BLOCK, BLOCK_ROWS, InPanels, Logits, Plain, chunks, column, log_sum_exp, logits, portable_errors,
};
use super::{tensor, values};

/// Log-probability of `targets[i]` at every row: hidden `[rows, d]`, head `[vocabulary, d]`, result `[rows]`.
///
/// Every target must be smaller than the vocabulary.
pub fn token_logps(hidden: Tensor<2>, head: Tensor<2>, targets: Arc<[i32]>) -> Tensor<1> {
    let (logps, _) = <Dispatch as TokenLogps>::token_logps(hidden.into_dispatch(), head.into_dispatch(), targets);
    Tensor::from_dispatch(logps)
}

/// As [`token_logps`], for a frozen head.
pub fn packed_token_logps(hidden: Tensor<2>, head: Arc<Packed>, targets: Arc<[i32]>) -> Tensor<1> {
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
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(hidden, head, targets)
    }

    /// Log-probabilities `[rows]` under a frozen head.
    fn packed_token_logps(hidden: FloatTensor<Self>, head: Arc<Packed>, targets: Arc<[i32]>) -> FloatTensor<Self> {
        let device = hidden.device();
        Self::token_logps(hidden, head.unpack::<Self>(&device), targets).0
    }

    /// Gradients with respect to hidden and, if it trains, head: with `e = (onehot - softmax) * grad`, `e @ head` and
    /// `e^T @ hidden`.
    fn token_logps_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        portable_backward::<Self>(hidden, head, lse, grad, targets, head_trains)
    }
}

pub(super) fn portable<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: Arc<[i32]>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = hidden.device();
    let (mut logps, mut lses) = (Vec::new(), Vec::new());
    for (start, targets) in chunks(&targets, head.shape()[0]) {
        let logits = logits::<B>(hidden.clone(), head.clone(), start, targets.len());
        let highest = B::float_max_dim(logits.clone(), 1);
        let weights = B::float_exp(B::float_sub(logits.clone(), highest.clone()));
        let lse = B::float_add(highest, B::float_log(B::float_sum_dim(weights, 1)));
        let chosen = B::float_gather(1, logits, column::<B>(targets, &device));
        let flat = [targets.len()];
        logps.push(B::float_reshape(B::float_sub(chosen, lse.clone()), flat.into()));
        lses.push(B::float_reshape(lse, flat.into()));
    }
    (B::float_cat(logps, 0), B::float_cat(lses, 0))
}

pub(super) fn portable_backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    targets: Arc<[i32]>,
    head_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    portable_errors::<B>(hidden.clone(), head.clone(), &targets, head_trains, |start, count| {
        let part = |x: &FloatTensor<B>| {
            let x = B::float_slice(x.clone(), &[Slice::from(start..start + count)]);
            B::float_reshape(x, [count, 1].into())
        };
        let logits = logits::<B>(hidden.clone(), head.clone(), start, count);
        let softmax = B::float_exp(B::float_sub(logits, part(&lse)));
        let grad = part(&grad);
        (B::float_neg(B::float_mul(softmax, grad.clone())), grad)
    })
}

#[cfg(feature = "tch")]
impl TokenLogps for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenLogps for burn::backend::Cube {}

impl TokenLogps for Flex {
    fn token_logps(hidden: FlexTensor, head: FlexTensor, targets: Arc<[i32]>) -> (FlexTensor, FlexTensor) {
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let rows = targets.len();
        let (logps, lses) = reduce(&targets, &Plain::new(&hidden, &head));
        (tensor(logps, [rows]), tensor(lses, [rows]))
    }

    fn packed_token_logps(hidden: FlexTensor, head: Arc<Packed>, targets: Arc<[i32]>) -> FlexTensor {
        let hidden = hidden.to_contiguous();
        let (logps, _) = match &head.numbers {
            Numbers::F32(panels) => reduce(&targets, &InPanels::new(&hidden, panels)),
            Numbers::Bf16(panels) => reduce(&targets, &InPanels::new(&hidden, panels)),
        };
        tensor(logps, [targets.len()])
    }

    fn token_logps_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        lse: FlexTensor,
        grad: FlexTensor,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [hidden, head, lse, grad] = [hidden, head, lse, grad].map(|tensor| tensor.to_contiguous());
        let (lse, grad) = (values(&lse), values(&grad));
        let logits = Plain::new(&hidden, &head);
        logits.backward(head_trains, |block, start, errors, _| {
            let size = logits.block(block, start, errors);
            for (row, errors) in (start..).zip(errors.chunks_exact_mut(size)) {
                let (lse, grad) = (lse[row], grad[row]);
                vectorized(
                    #[inline(always)]
                    || {
                        for error in errors.iter_mut() {
                            *error = -grad * exp(*error - lse);
                        }
                    },
                );
                if let Some(hit) = errors.get_mut((targets[row] as usize).wrapping_sub(block * BLOCK)) {
                    *hit += grad;
                }
            }
            size
        })
    }
}

/// Log-probabilities and log-sum-exps of all rows.
fn reduce(targets: &[i32], logits: &impl Logits) -> (Vec<f32>, Vec<f32>) {
    let rows = targets.len();
    let parts: Vec<Vec<[f32; 2]>> = (0..logits.blocks())
        .into_par_iter()
        .map_init(Vec::new, |scratch, block| {
            let mut sums = Vec::with_capacity(rows);
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let size = logits.block(block, start, scratch);
                for row in scratch.chunks_exact_mut(size) {
                    sums.push(vectorized(
                        #[inline(always)]
                        || {
                            let highest = max(row);
                            [highest, exp_shifted(row, highest)]
                        },
                    ));
                }
            }
            sums
        })
        .collect();
    let finish = |row: usize| {
        let lse = log_sum_exp(parts.iter().map(|sums| sums[row]));
        ((f64::from(logits.one(row, targets[row] as usize)) - lse) as f32, lse as f32)
    };
    (0..rows).into_par_iter().map(finish).unzip()
}

impl<B: TokenLogps, C: CheckpointStrategy> TokenLogps for Autodiff<B, C> {
    fn token_logps(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Node;
        impl<B: TokenLogps> Backward<B, 2> for Node {
            type State = ([FloatTensor<B>; 3], Arc<[i32]>);
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
