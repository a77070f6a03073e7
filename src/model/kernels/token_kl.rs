//! Log-probabilities of given tokens under a policy and its reference, and the divergence of the two at every token, fused
//! with both output heads:
//!
//! `KL_i = sum_v q_iv (log q_iv - log p_iv)`, where `p` is the policy's and `q` the reference's distribution at row `i`.
//!
//! As in [`token_logps`](super::token_logps), the `[rows, vocabulary]` logits never exist: one pass over the vocabulary
//! gives both log-sum-exps and the sum of `q (u - z)`, `z` and `u` being the logits. With slopes `a` of the log-probability
//! and `b` of the divergence, the backward pass computes them again and has `a onehot + (b - a) p - b q` as errors.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{IndexingUpdateOp, Slice, Tensor};
use rayon::prelude::*;

use super::packed::{Numbers, Packed};
use super::simd::{exp, max, vectorized};
use super::vocabulary::{BLOCK, BLOCK_ROWS, InPanels, Logits, Plain, chunks, column, log_sum_exp, logits};
use super::{tensor, values};

/// What a policy and its reference say about given tokens, each `[rows]`.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The policy's log-probabilities.
    pub logps: Tensor<1>,
    /// KL(reference || policy) of the distributions that the tokens are drawn from, in nats.
    pub divergences: Tensor<1>,
    /// The reference's log-probabilities; no gradient flows through them.
    pub reference: Tensor<1>,
}

impl Compared {
    /// From `[2, rows]` and `[3, rows]`; see [`TokenKl::token_kl`].
    fn new(tracked: Tensor<2>, constant: Tensor<2>) -> Self {
        let row = |tensor: &Tensor<2>, row: usize| tensor.clone().narrow(0, row, 1).flatten(0, 1);
        Self { logps: row(&tracked, 0), divergences: row(&tracked, 1), reference: row(&constant, 2) }
    }
}

/// Compares two models' distributions at every row, and what they say about `targets[i]`: hidden `[rows, d]` and head
/// `[vocabulary, d]` of the policy, then of the reference, whose width may be another one.
///
/// Every target must be smaller than the vocabulary, which both share.
pub fn token_kl(policy: [Tensor<2>; 2], reference: [Tensor<2>; 2], targets: Arc<[i32]>) -> Compared {
    let ([hidden, head], [reference, reference_head]) =
        (policy.map(Tensor::into_dispatch), reference.map(Tensor::into_dispatch));
    let (tracked, constant) = <Dispatch as TokenKl>::token_kl(hidden, head, reference, reference_head, targets);
    Compared::new(Tensor::from_dispatch(tracked), Tensor::from_dispatch(constant))
}

/// As [`token_kl`], for a reference with a packed head.
pub fn packed_token_kl(
    [hidden, head]: [Tensor<2>; 2],
    (reference, reference_head): (Tensor<2>, Arc<Packed>),
    targets: Arc<[i32]>,
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
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(hidden, head, reference, reference_head, targets)
    }

    /// As [`Self::token_kl`].
    fn packed_token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: Arc<Packed>,
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let reference_head = reference_head.unpack::<Self>(&hidden.device());
        Self::token_kl(hidden, head, reference, reference_head, targets)
    }

    /// Gradients with respect to the policy's hidden rows and, if it trains, head. `rows` `[4, rows]` holds the log-sum-exps
    /// of policy and reference, and the slopes of log-probabilities and divergences.
    fn token_kl_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: Arc<[i32]>,
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
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let reference_head = reference_head.unpack::<Self>(&hidden.device());
        Self::token_kl_backward(hidden, head, reference, reference_head, rows, targets, head_trains)
    }
}

pub(super) fn portable<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    reference: FloatTensor<B>,
    reference_head: FloatTensor<B>,
    targets: Arc<[i32]>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = hidden.device();
    let mut parts: [Vec<FloatTensor<B>>; 5] = Default::default();
    for (start, targets) in chunks(&targets, head.shape()[0]) {
        let count = targets.len();
        let log_softmax = |hidden: &FloatTensor<B>, head: &FloatTensor<B>| {
            let logits = logits::<B>(hidden.clone(), head.clone(), start, count);
            let highest = B::float_max_dim(logits.clone(), 1);
            let weights = B::float_exp(B::float_sub(logits.clone(), highest.clone()));
            let lse = B::float_add(highest, B::float_log(B::float_sum_dim(weights, 1)));
            (B::float_sub(logits, lse.clone()), lse)
        };
        let (own, own_lse) = log_softmax(&hidden, &head);
        let (other, other_lse) = log_softmax(&reference, &reference_head);
        let of_targets = |logps: &FloatTensor<B>| B::float_gather(1, logps.clone(), column::<B>(targets, &device));
        let (own_logps, other_logps) = (of_targets(&own), of_targets(&other));
        let terms = B::float_mul(B::float_exp(other.clone()), B::float_sub(other, own));
        let found = [own_logps, B::float_sum_dim(terms, 1), own_lse, other_lse, other_logps];
        for (parts, found) in parts.iter_mut().zip(found) {
            parts.push(B::float_reshape(found, [1, count].into()));
        }
    }
    let [logps, divergences, own_lse, other_lse, other_logps] = parts.map(|parts| B::float_cat(parts, 1));
    (B::float_cat(vec![logps, divergences], 0), B::float_cat(vec![own_lse, other_lse, other_logps], 0))
}

pub(super) fn portable_backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    reference: FloatTensor<B>,
    reference_head: FloatTensor<B>,
    rows: FloatTensor<B>,
    targets: Arc<[i32]>,
    head_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let device = hidden.device();
    let [vocabulary, d] = head.shape().dims();
    let mut grad_hidden = Vec::new();
    let mut grad_head: Option<FloatTensor<B>> = None;
    for (start, targets) in chunks(&targets, vocabulary) {
        let count = targets.len();
        let [own_lse, other_lse, a, b] = [0, 1, 2, 3].map(|row| {
            let part = B::float_slice(rows.clone(), &[row..row + 1, start..start + count].map(Slice::from));
            B::float_reshape(part, [count, 1].into())
        });
        let softmax = |hidden: &FloatTensor<B>, head: &FloatTensor<B>, lse: FloatTensor<B>| {
            B::float_exp(B::float_sub(logits::<B>(hidden.clone(), head.clone(), start, count), lse))
        };
        let own = B::float_mul(softmax(&hidden, &head, own_lse), B::float_sub(b.clone(), a.clone()));
        let other = B::float_mul(softmax(&reference, &reference_head, other_lse), b);
        let error = B::float_sub(own, other);
        let error = B::float_scatter(1, error, column::<B>(targets, &device), a, IndexingUpdateOp::Add);
        grad_hidden.push(B::float_matmul(error.clone(), head.clone()));
        if !head_trains {
            continue;
        }
        let rows = B::float_slice(hidden.clone(), &[start..start + count, 0..d].map(Slice::from));
        let part = B::float_matmul(B::float_transpose(error), rows);
        grad_head = Some(match grad_head {
            Some(sum) => B::float_add(sum, part),
            None => part,
        });
    }
    (B::float_cat(grad_hidden, 0), grad_head)
}

#[cfg(feature = "tch")]
impl TokenKl for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenKl for burn::backend::Cube {}

impl TokenKl for Flex {
    fn token_kl(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: FlexTensor,
        targets: Arc<[i32]>,
    ) -> (FlexTensor, FlexTensor) {
        let tensors = [hidden, head, reference, reference_head].map(|tensor| tensor.to_contiguous());
        let [hidden, head, reference, reference_head] = &tensors;
        compare(&targets, &Plain::new(hidden, head), &Plain::new(reference, reference_head))
    }

    fn packed_token_kl(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: Arc<Packed>,
        targets: Arc<[i32]>,
    ) -> (FlexTensor, FlexTensor) {
        let [hidden, head, reference] = [hidden, head, reference].map(|tensor| tensor.to_contiguous());
        let own = Plain::new(&hidden, &head);
        match &reference_head.numbers {
            Numbers::F32(panels) => compare(&targets, &own, &InPanels::new(&reference, panels)),
            Numbers::Bf16(panels) => compare(&targets, &own, &InPanels::new(&reference, panels)),
        }
    }

    fn token_kl_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: FlexTensor,
        rows: FlexTensor,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let tensors = [hidden, head, reference, reference_head, rows].map(|tensor| tensor.to_contiguous());
        let [hidden, head, reference, reference_head, rows] = &tensors;
        let other = Plain::new(reference, reference_head);
        backward(&Plain::new(hidden, head), &other, values(rows), &targets, head_trains)
    }

    fn packed_token_kl_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: Arc<Packed>,
        rows: FlexTensor,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [hidden, head, reference, rows] = [hidden, head, reference, rows].map(|tensor| tensor.to_contiguous());
        let (own, rows) = (Plain::new(&hidden, &head), values(&rows));
        match &reference_head.numbers {
            Numbers::F32(panels) => backward(&own, &InPanels::new(&reference, panels), rows, &targets, head_trains),
            Numbers::Bf16(panels) => backward(&own, &InPanels::new(&reference, panels), rows, &targets, head_trains),
        }
    }
}

/// Sums over one block of one row, with both logits relative to their highest: of e^z, of e^u, of e^u (u - z).
struct Sums {
    highest: [f32; 2],
    own: f32,
    other: f32,
    crossed: f32,
}

impl Sums {
    #[inline(always)]
    fn new(own: &[f32], other: &[f32]) -> Self {
        let highest = [max(own), max(other)];
        let mut lanes = [[0f32; 16]; 3];
        let mut add = |lane: usize, own: f32, other: f32| {
            let (z, u) = (own - highest[0], other - highest[1]);
            let weight = exp(u);
            lanes[0][lane] += exp(z);
            lanes[1][lane] += weight;
            lanes[2][lane] += weight * (u - z);
        };
        let ((own, own_rest), (other, other_rest)) = (own.as_chunks::<16>(), other.as_chunks::<16>());
        for (own, other) in own.iter().zip(other) {
            for lane in 0..16 {
                add(lane, own[lane], other[lane]);
            }
        }
        for (lane, (own, other)) in own_rest.iter().zip(other_rest).enumerate() {
            add(lane, *own, *other);
        }
        let [own, other, crossed] = lanes.map(|lanes| lanes.iter().sum());
        Self { highest, own, other, crossed }
    }
}

/// The forward pass; see [`TokenKl::token_kl`].
fn compare(targets: &[i32], own: &impl Logits, other: &impl Logits) -> (FlexTensor, FlexTensor) {
    let rows = targets.len();
    let parts: Vec<Vec<Sums>> = (0..own.blocks())
        .into_par_iter()
        .map_init(Default::default, |(z, u): &mut (Vec<f32>, Vec<f32>), block| {
            let mut sums = Vec::with_capacity(rows);
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let size = own.block(block, start, z);
                other.block(block, start, u);
                sums.extend(z.chunks_exact(size).zip(u.chunks_exact(size)).map(|(z, u)| {
                    vectorized(
                        #[inline(always)]
                        || Sums::new(z, u),
                    )
                }));
            }
            sums
        })
        .collect();
    let finish = |row: usize| {
        let sums = parts.iter().map(|sums| &sums[row]);
        let own_lse = log_sum_exp(sums.clone().map(|sums| [sums.highest[0], sums.own]));
        let other_lse = log_sum_exp(sums.clone().map(|sums| [sums.highest[1], sums.other]));
        let crossed = sums.map(|sums| {
            let [z, u] = sums.highest.map(f64::from);
            (u - other_lse).exp() * (f64::from(sums.crossed) + f64::from(sums.other) * (u - z))
        });
        let target = targets[row] as usize;
        let logp = f64::from(own.one(row, target)) - own_lse;
        let other_logp = f64::from(other.one(row, target)) - other_lse;
        let divergence = crossed.sum::<f64>() + own_lse - other_lse;
        [logp, divergence, own_lse, other_lse, other_logp].map(|value| value as f32)
    };
    let found: Vec<[f32; 5]> = (0..rows).into_par_iter().map(finish).collect();
    let of = |range: std::ops::Range<usize>| range.flat_map(|at| found.iter().map(move |row| row[at])).collect();
    (tensor(of(0..2), [2, rows]), tensor(of(2..5), [3, rows]))
}

/// The backward pass; see [`TokenKl::token_kl_backward`].
fn backward(
    own: &Plain,
    other: &impl Logits,
    rows: &[f32],
    targets: &[i32],
    head_trains: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let count = targets.len();
    own.backward(head_trains, |block, start, errors, spare| {
        let size = own.block(block, start, errors);
        other.block(block, start, spare);
        for (row, (errors, others)) in (start..).zip(errors.chunks_exact_mut(size).zip(spare.chunks_exact(size))) {
            let [own_lse, other_lse, a, b] = [0, 1, 2, 3].map(|at| rows[at * count + row]);
            vectorized(
                #[inline(always)]
                || {
                    for (error, other) in errors.iter_mut().zip(others) {
                        *error = (b - a) * exp(*error - own_lse) - b * exp(*other - other_lse);
                    }
                },
            );
            if let Some(hit) = errors.get_mut((targets[row] as usize).wrapping_sub(block * BLOCK)) {
                *hit += a;
            }
        }
        size
    })
}

/// A reference's output head.
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
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        tracked::<B, C>(hidden, head, reference, ReferenceHead::Plain(reference_head.into_primitive()), targets)
    }

    fn packed_token_kl(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        reference: FloatTensor<Self>,
        reference_head: Arc<Packed>,
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        tracked::<B, C>(hidden, head, reference, ReferenceHead::Packed(reference_head), targets)
    }
}

/// See [`TokenKl::token_kl`].
type Found<B> = (FloatTensor<B>, FloatTensor<B>);

/// The forward pass on the graph: a node above the policy's hidden rows and head, none above the reference.
fn tracked<B: TokenKl, C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<B, C>>,
    head: FloatTensor<Autodiff<B, C>>,
    reference: FloatTensor<Autodiff<B, C>>,
    reference_head: ReferenceHead<B>,
    targets: Arc<[i32]>,
) -> Found<Autodiff<B, C>> {
    #[derive(Debug)]
    struct Node;
    impl<B: TokenKl> Backward<B, 2> for Node {
        type State = ([FloatTensor<B>; 4], ReferenceHead<B>, Arc<[i32]>);
        fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
            let slopes = grads.consume::<B>(&ops.node);
            let ([hidden, head, reference, lse], reference_head, targets) = ops.state;
            let rows = B::float_cat(vec![lse, slopes], 0);
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
