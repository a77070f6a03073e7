//! Span attention: causal attention over a packed stream in which several answers share one prompt.
//!
//! The stream is a list of [`Segment`]s. A row attends to every row of its segment's prefix, and to the rows of its own
//! segment up to itself. Nothing is padded, causal tiles above the diagonal are never computed, grouped queries read
//! their keys and values in place, and the backward pass recomputes the probabilities from the log-sum-exp of each row
//! (as FlashAttention does, arXiv 2307.08691), so that no `[T, T]` matrix outlives its tile.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor, TensorData};
use rayon::prelude::*;

use super::simd::{dot, exp, exp_shifted, max, vectorized};
use super::{Matrix, Shared, product, tensor, values};

/// Consecutive rows of the stream that belong to one prompt or one answer. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Index of the segment that all rows of this one see in full: an answer's prompt. Comes earlier in the list, and
    /// has no prefix of its own.
    pub prefix: Option<usize>,
}

/// The geometry of one attention call.
#[derive(Debug, Clone)]
pub struct Spans {
    /// Segments that cover the stream without gaps, in order.
    pub segments: Arc<[Segment]>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Spans {
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Query heads that read one key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn prefix(&self, segment: &Segment) -> Option<Segment> {
        segment.prefix.map(|index| self.segments[index])
    }
}

/// Attention of every row: q `[rows, heads * d]`, k and v `[rows, kv_heads * d]`, result `[rows, heads * d]`, scaled by
/// `1 / sqrt(d)`.
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
    /// The attention output `[rows, heads * d]` and the log-sum-exp of the scaled scores `[rows, heads]`.
    fn span_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Spans,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(q, k, v, spans)
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
        portable_backward::<Self>(q, k, v, out, lse, grad, spans)
    }
}

pub(super) fn portable<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    spans: Spans,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for segment in spans.segments.iter() {
        let view = View { segment: *segment, prefix: spans.prefix(segment), spans: &spans };
        let scores = view.scores::<B>(q.clone(), k.clone());
        let highest = B::float_max_dim(scores.clone(), 2);
        let weights = B::float_exp(B::float_sub(scores, highest.clone()));
        let total = B::float_sum_dim(weights.clone(), 2);
        let out = B::float_matmul(weights, view.keys::<B>(v.clone()));
        outs.push(view.join::<B>(B::float_div(out, total.clone())));
        lses.push(view.join::<B>(B::float_add(highest, B::float_log(total))));
    }
    (B::float_cat(outs, 0), B::float_cat(lses, 0))
}

pub(super) fn portable_backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    spans: Spans,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let mut grad_q = Vec::new();
    let mut grad_kv: Vec<[FloatTensor<B>; 2]> = Vec::new();
    for segment in spans.segments.iter() {
        let view = View { segment: *segment, prefix: spans.prefix(segment), spans: &spans };
        let queries = view.queries::<B>(q.clone());
        let grads = view.queries::<B>(grad.clone());
        let scores = view.scores::<B>(q.clone(), k.clone());
        let weights = B::float_exp(B::float_sub(scores, view.queries::<B>(lse.clone())));
        let shared = B::float_mul(grads.clone(), view.queries::<B>(out.clone()));
        let shared = B::float_sum_dim(shared, 2);
        let grad_weights = B::float_matmul(grads.clone(), B::float_transpose(view.keys::<B>(v.clone())));
        let grad_scores = B::float_mul(weights.clone(), B::float_sub(grad_weights, shared));
        let grad_scores = B::float_mul_scalar(grad_scores, spans.scale().into());
        grad_q.push(view.join::<B>(B::float_matmul(grad_scores.clone(), view.keys::<B>(k.clone()))));
        let of_keys = [
            B::float_matmul(B::float_transpose(grad_scores), queries),
            B::float_matmul(B::float_transpose(weights), grads),
        ];
        let of_keys = of_keys.map(|keys| view.join_groups::<B>(keys));
        if let (Some(prefix), Some(index)) = (view.prefix, segment.prefix) {
            let [k, v] = of_keys.clone().map(|keys| rows::<B>(keys, 0, prefix.rows));
            let [sum_k, sum_v] = grad_kv[index].clone();
            grad_kv[index] = [B::float_add(sum_k, k), B::float_add(sum_v, v)];
        }
        grad_kv.push(of_keys.map(|keys| rows::<B>(keys, view.prefix_rows(), segment.rows)));
    }
    let (grad_k, grad_v) = grad_kv.into_iter().map(|[k, v]| (k, v)).unzip();
    (B::float_cat(grad_q, 0), B::float_cat(grad_k, 0), B::float_cat(grad_v, 0))
}

/// One segment in the portable body.
struct View<'a> {
    segment: Segment,
    prefix: Option<Segment>,
    spans: &'a Spans,
}

impl View<'_> {
    fn prefix_rows(&self) -> usize {
        self.prefix.map_or(0, |prefix| prefix.rows)
    }

    /// The segment's rows of `x` `[rows, heads * d]` as `[heads, segment rows, d]`.
    fn queries<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let width = x.shape()[1];
        let x = rows::<B>(x, self.segment.start, self.segment.rows);
        let heads = self.spans.heads;
        B::float_swap_dims(B::float_reshape(x, [self.segment.rows, heads, width / heads].into()), 0, 1)
    }

    /// The rows of `x` `[rows, kv_heads * d]` that the segment sees, for every query head: `[heads, seen, d]`.
    fn keys<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let Spans { heads, kv_heads, head_dim, .. } = *self.spans;
        let own = rows::<B>(x.clone(), self.segment.start, self.segment.rows);
        let seen = match self.prefix {
            Some(prefix) => B::float_cat(vec![rows::<B>(x, prefix.start, prefix.rows), own], 0),
            None => own,
        };
        let count = seen.shape()[0];
        let seen = B::float_swap_dims(B::float_reshape(seen, [count, kv_heads, head_dim].into()), 0, 1);
        let seen = B::float_reshape(seen, [kv_heads, 1, count, head_dim].into());
        let seen = B::float_expand(seen, [kv_heads, heads / kv_heads, count, head_dim].into());
        B::float_reshape(seen, [heads, count, head_dim].into())
    }

    /// Scaled scores `[heads, segment rows, seen]`, far below zero where a row must not look.
    fn scores<B: Backend>(&self, q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
        let queries = self.queries::<B>(q);
        let device = queries.device();
        let scores = B::float_matmul(queries, B::float_transpose(self.keys::<B>(k)));
        let (count, before) = (self.segment.rows, self.prefix_rows());
        let hidden = (0..count).flat_map(|row| (0..before + count).map(move |key| key > before + row));
        let mask: Vec<f32> = hidden.map(|hidden| if hidden { -1e30 } else { 0.0 }).collect();
        let mask = B::float_from_data(TensorData::new(mask, [1, count, before + count]), &device);
        B::float_add(B::float_mul_scalar(scores, self.spans.scale().into()), mask)
    }

    /// `[heads, segment rows, d]` back to `[segment rows, heads * d]`.
    fn join<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let [heads, count, d] = x.shape().dims();
        B::float_reshape(B::float_swap_dims(x, 0, 1), [count, heads * d].into())
    }

    /// `[heads, seen, d]` summed over the query heads of each group: `[seen, kv_heads * d]`.
    fn join_groups<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let [_, count, d] = x.shape().dims();
        let kv_heads = self.spans.kv_heads;
        let x = B::float_sum_dim(B::float_reshape(x, [kv_heads, self.spans.group(), count, d].into()), 1);
        self.join::<B>(B::float_reshape(x, [kv_heads, count, d].into()))
    }
}

fn rows<B: Backend>(x: FloatTensor<B>, start: usize, count: usize) -> FloatTensor<B> {
    let width = x.shape()[1];
    B::float_slice(x, &[start..start + count, 0..width].map(Slice::from))
}

#[cfg(feature = "tch")]
impl SpanAttention for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl SpanAttention for burn::backend::Cube {}

/// Rows of a tile of scores.
const TILE: usize = 64;

impl SpanAttention for Flex {
    fn span_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, spans: Spans) -> (FlexTensor, FlexTensor) {
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let (count, heads) = (q.shape()[0], spans.heads);
        let (mut out, mut lse) = (vec![0f32; values(&q).len()], vec![0f32; count * heads]);
        let (out_place, lse_place) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
        let layout = Rows { q: values(&q), k: values(&k), v: values(&v), spans: &spans };
        let tiles = spans.segments.par_iter().flat_map(|segment| {
            let tiles = (0..segment.rows).into_par_iter().step_by(TILE);
            tiles.flat_map_iter(move |from| (0..heads).map(move |head| (segment, from, head)))
        });
        tiles.for_each_init(Vec::new, |scores, (segment, from, head)| {
            let tile = Tile::new(&layout, segment, from, head);
            // SAFETY: each (tile, head) writes its own rows and columns of `out` and `lse`.
            unsafe {
                tile.scores(scores);
                for (index, row) in scores.chunks_exact_mut(tile.seen).enumerate() {
                    let (row, hidden) = row.split_at_mut(tile.before + from + index + 1);
                    let lse = vectorized(
                        #[inline(always)]
                        || {
                            let highest = max(row);
                            let total = exp_shifted(row, highest);
                            row.iter_mut().for_each(|weight| *weight /= total);
                            highest + total.ln()
                        },
                    );
                    hidden.fill(0.0);
                    *lse_place.at((tile.row + index) * heads + head) = lse;
                }
                let place = out_place.at(tile.row * layout.width() + tile.column);
                tile.times_keys(scores, layout.v, place, layout.width(), 1.0);
            }
        });
        let width = layout.width();
        (tensor(out, [count, width]), tensor(lse, [count, heads]))
    }

    fn span_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        out: FlexTensor,
        lse: FlexTensor,
        grad: FlexTensor,
        spans: Spans,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [q, k, v, out, lse, grad] = [q, k, v, out, lse, grad].map(|tensor| tensor.to_contiguous());
        let count = q.shape()[0];
        let layout = Rows { q: values(&q), k: values(&k), v: values(&v), spans: &spans };
        let (out, lse, grad) = (values(&out), values(&lse), values(&grad));
        let (width, kv_width) = (layout.width(), layout.kv_width());
        let mut grad_q = vec![0f32; count * width];
        let (mut grad_k, mut grad_v) = (vec![0f32; count * kv_width], vec![0f32; count * kv_width]);
        let places = [&mut grad_q, &mut grad_k, &mut grad_v].map(|grad| Shared(grad.as_mut_ptr()));
        let [q_place, k_place, v_place] = places;

        // A task owns one key head of a prompt and of all its answers, so that nothing else adds to its rows.
        let prompts = spans.segments.iter().enumerate().filter(|(_, segment)| segment.prefix.is_none());
        let families: Vec<Vec<&Segment>> = prompts
            .map(|(index, prompt)| {
                let answers = spans.segments.iter().filter(|segment| segment.prefix == Some(index));
                std::iter::once(prompt).chain(answers).collect()
            })
            .collect();
        let tasks = families
            .par_iter()
            .flat_map(|family| (0..spans.kv_heads).into_par_iter().map(move |kv_head| (family, kv_head)));
        tasks.for_each_init(<(Vec<f32>, Vec<f32>)>::default, |(weights, grads), (family, kv_head)| {
            let heads = kv_head * spans.group()..(kv_head + 1) * spans.group();
            let tiles = family.iter().flat_map(|segment| {
                let heads = heads.clone();
                (0..segment.rows)
                    .step_by(TILE)
                    .flat_map(move |from| heads.clone().map(move |head| (segment, from, head)))
            });
            for (segment, from, head) in tiles {
                let tile = Tile::new(&layout, segment, from, head);
                // SAFETY: rows of `grad_q` belong to this tile and head; rows of `grad_k` and `grad_v` to this family
                // and key head, which only this task touches.
                unsafe {
                    tile.scores(weights);
                    tile.grad_weights(grad, grads);
                    let rows = weights.chunks_exact_mut(tile.seen).zip(grads.chunks_exact_mut(tile.seen));
                    for (index, (weights, grads)) in rows.enumerate() {
                        let visible = tile.before + from + index + 1;
                        let place = (tile.row + index) * width + tile.column;
                        let place = place..place + spans.head_dim;
                        let lse = lse[(tile.row + index) * spans.heads + head];
                        vectorized(
                            #[inline(always)]
                            || {
                                let shared = dot(&out[place.clone()], &grad[place]);
                                for (weight, grad) in weights[..visible].iter_mut().zip(&mut grads[..visible]) {
                                    *weight = exp(*weight - lse);
                                    *grad = *weight * (*grad - shared);
                                }
                            },
                        );
                        weights[visible..].fill(0.0);
                        grads[visible..].fill(0.0);
                    }
                    let scale = spans.scale();
                    tile.times_keys(grads, layout.k, q_place.at(tile.row * width + tile.column), width, scale);
                    tile.add_to_keys(grads, layout.q, k_place, scale);
                    tile.add_to_keys(weights, grad, v_place, 1.0);
                }
            }
        });
        (tensor(grad_q, [count, width]), tensor(grad_k, [count, kv_width]), tensor(grad_v, [count, kv_width]))
    }
}

/// The inputs of a call as slices.
struct Rows<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    spans: &'a Spans,
}

impl Rows<'_> {
    fn width(&self) -> usize {
        self.spans.heads * self.spans.head_dim
    }

    fn kv_width(&self) -> usize {
        self.spans.kv_heads * self.spans.head_dim
    }
}

/// Up to [`TILE`] rows of one segment and one head, against all the rows they may see.
struct Tile<'a> {
    rows: &'a Rows<'a>,
    /// First row in the stream, and how many.
    row: usize,
    count: usize,
    /// First column of the head in queries, and in keys.
    column: usize,
    kv_column: usize,
    /// Rows of keys: `before` from the prefix, `seen` in all.
    before: usize,
    seen: usize,
    /// First row of the prefix's keys, and of the segment's own.
    starts: [usize; 2],
}

impl<'a> Tile<'a> {
    fn new(rows: &'a Rows<'a>, segment: &Segment, from: usize, head: usize) -> Self {
        let spans = rows.spans;
        let prefix = spans.prefix(segment);
        let count = TILE.min(segment.rows - from);
        let before = prefix.map_or(0, |prefix| prefix.rows);
        Self {
            rows,
            row: segment.start + from,
            count,
            column: head * spans.head_dim,
            kv_column: head / spans.group() * spans.head_dim,
            before,
            seen: before + from + count,
            starts: [prefix.map_or(0, |prefix| prefix.start), segment.start],
        }
    }

    /// The two blocks of keys: (first column in the tile, first row in the stream, rows).
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let blocks = [(0, self.starts[0], self.before), (self.before, self.starts[1], self.seen - self.before)];
        blocks.into_iter().filter(|(_, _, rows)| *rows > 0)
    }

    /// The tile's own rows of a `[rows, heads * d]` matrix.
    ///
    /// # Safety
    /// `x` has the layout of the queries.
    unsafe fn own(&self, x: &[f32]) -> Matrix {
        let width = self.rows.width();
        // SAFETY: the tile lies inside the queries.
        Matrix { data: unsafe { x.as_ptr().add(self.row * width + self.column) }, rows: width, columns: 1 }
    }

    /// The rows from `start` on of a `[rows, kv_heads * d]` matrix.
    ///
    /// # Safety
    /// `x` has the layout of the keys.
    unsafe fn key_rows(&self, x: &[f32], start: usize) -> Matrix {
        let width = self.rows.kv_width();
        // SAFETY: the block lies inside the keys.
        Matrix { data: unsafe { x.as_ptr().add(start * width + self.kv_column) }, rows: width, columns: 1 }
    }

    /// `out = x K^T * scale` for the tile's rows of `x`: `[count, seen]`.
    unsafe fn against(&self, x: &[f32], keys: &[f32], out: &mut Vec<f32>, scale: f32) {
        out.clear();
        out.resize(self.count * self.seen, 0.0);
        for (column, start, rows) in self.blocks() {
            // SAFETY: layouts as in `own` and `key_rows`; `out` holds `count * seen` values.
            unsafe {
                let keys = self.key_rows(keys, start);
                let keys = Matrix { rows: keys.columns, columns: keys.rows, ..keys };
                let shape = [self.count, rows, self.rows.spans.head_dim];
                product(shape, out.as_mut_ptr().add(column), self.seen, self.own(x), keys, false, scale);
            }
        }
    }

    /// Scaled scores, `[count, seen]`; entries right of the diagonal are not meaningful.
    ///
    /// # Safety
    /// The tile lies inside the inputs.
    unsafe fn scores(&self, out: &mut Vec<f32>) {
        // SAFETY: the caller's contract.
        unsafe { self.against(self.rows.q, self.rows.k, out, self.rows.spans.scale()) }
    }

    /// Gradients of the weights, `[count, seen]`, given that of the output.
    ///
    /// # Safety
    /// As for `scores`; `grad` has the layout of the queries.
    unsafe fn grad_weights(&self, grad: &[f32], out: &mut Vec<f32>) {
        // SAFETY: the caller's contract.
        unsafe { self.against(grad, self.rows.v, out, 1.0) }
    }

    /// `out = weights @ keys * scale` into the tile's rows, `[count, d]` with row stride `stride`.
    ///
    /// # Safety
    /// `keys` has the layout of the keys; nobody else touches the rows at `out`.
    unsafe fn times_keys(&self, weights: &[f32], keys: &[f32], out: *mut f32, stride: usize, scale: f32) {
        for (index, (column, start, rows)) in self.blocks().enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                let weights = Matrix { data: weights.as_ptr().add(column), rows: self.seen, columns: 1 };
                let shape = [self.count, self.rows.spans.head_dim, rows];
                product(shape, out, stride, weights, self.key_rows(keys, start), index > 0, scale);
            }
        }
    }

    /// Adds `weights^T @ x * scale`, `[seen, d]`, to the rows of the keys at `out`.
    ///
    /// # Safety
    /// `x` has the layout of the queries and `out` that of the keys; nobody else touches this family's rows.
    unsafe fn add_to_keys(&self, weights: &[f32], x: &[f32], out: Shared, scale: f32) {
        let width = self.rows.kv_width();
        for (column, start, rows) in self.blocks() {
            // SAFETY: the caller's contract.
            unsafe {
                let weights = Matrix { data: weights.as_ptr().add(column), rows: 1, columns: self.seen };
                let shape = [rows, self.rows.spans.head_dim, self.count];
                product(shape, out.at(start * width + self.kv_column), width, weights, self.own(x), true, scale);
            }
        }
    }
}

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
