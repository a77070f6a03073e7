//! Span attention: causal attention over a packed stream in which several answers share one prompt.
//!
//! The stream is a list of [`Segment`]s. A row attends to every row of its segment's prefix, and to the rows of its own segment up to
//! itself; with a window, to the last few of those. Nothing is padded, masked tiles are not computed, grouped queries read their keys
//! and values in place, and the backward pass recomputes the probabilities from the log-sum-exp of each row (as FlashAttention does,
//! arXiv 2307.08691), so that no `[T, T]` matrix outlives its tile.

pub(crate) mod cached;
#[cfg(feature = "tch")]
mod cuda;
#[cfg(feature = "tch")]
mod flash;
mod flex;
mod gathered;
#[cfg(feature = "tch")]
mod libtorch;
mod padded;
mod portable;
pub mod recalled;

use std::ops::{Deref, Range};
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use super::once::Once;

#[cfg(test)]
pub(super) use portable::{portable, portable_backward};

/// Consecutive rows of the stream that belong to one prompt or one answer. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Index of the segment that all rows of this one attend to in full: the prompt of an answer. It is earlier in the list and has
    /// no prefix itself.
    pub prefix: Option<usize>,
}

/// The segments of a stream, and what the bodies for devices make of them once for all layers.
#[derive(Debug, Default)]
pub struct Stream {
    segments: Vec<Segment>,
    /// The padded batches of the portable body.
    padded: Once,
    /// The gathered keys of FlashAttention.
    #[cfg(feature = "tch")]
    gathered: Once,
}

impl From<Vec<Segment>> for Stream {
    /// Segments that cover the stream without gaps, in order.
    fn from(segments: Vec<Segment>) -> Self {
        Self { segments, ..Self::default() }
    }
}

impl Deref for Stream {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        &self.segments
    }
}

/// The geometry of one attention call.
#[derive(Debug, Clone)]
pub struct Spans {
    /// The segments of the stream.
    pub segments: Arc<Stream>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scale of the scores.
    pub scale: f32,
    /// Sliding window, in positions including the own one, at least 1; `None` without a window.
    pub window: Option<usize>,
}

impl Spans {
    /// Scores scaled by `1 / sqrt(head_dim)`, and no window.
    pub fn new(segments: Arc<Stream>, heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { segments, heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window: None }
    }

    /// The positions that a row at `position` attends to, counted from the first row of its prefix.
    fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }

    /// Query heads that read one key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn prefix(&self, segment: &Segment) -> Option<Segment> {
        segment.prefix.map(|index| self.segments[index])
    }
}

/// Attention of every row: q `[rows, heads * d]`, k and v `[rows, kv_heads * d]`, result `[rows, heads * d]`.
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: Spans) -> Tensor<2> {
    let (out, _) =
        <Dispatch as SpanAttention>::span_attention(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), spans);
    Tensor::from_dispatch(out)
}

/// The kernel; see [`attention`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait SpanAttention: Backend {
    /// The attention output `[rows, heads * d]` in the type of q, and the log-sum-exp of the scaled scores in f32 for the backward
    /// pass: `[rows, heads]`, transposed in FlashAttention.
    fn span_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Spans,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::portable::<Self>(q, k, v, spans)
    }

    /// Gradients with respect to q, k and v, given output, log-sum-exp and the output's gradient.
    fn span_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        spans: Spans,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::portable_backward::<Self>(q, k, v, out, lse, grad, spans)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl SpanAttention for burn::backend::Cube {}

impl<B: SpanAttention, C: CheckpointStrategy> SpanAttention for Autodiff<B, C> {
    fn span_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Spans,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Node;
        impl<B: SpanAttention> Backward<B, 3> for Node {
            type State = ([FloatTensor<B>; 5], Spans);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([q, k, v, out, lse], spans) = ops.state;
                let (grad_q, grad_k, grad_v) = B::span_attention_backward(q, k, v, out, lse, grad, spans);
                for (parent, grad) in ops.parents.into_iter().zip([grad_q, grad_k, grad_v]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (out, lse) = B::span_attention(q.clone(), k.clone(), v.clone(), spans.clone());
        let untracked = <Self as AutodiffBackend>::from_inner(lse.clone());
        let out = match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v, out.clone(), lse], spans), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, untracked)
    }
}
