//! Span attention in backend operations, one padded batch at a time.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Slice};

use super::Spans;
use super::padded::{Group, Padded};
use crate::kernels::indices::upload;

pub(in crate::kernels) fn portable<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    spans: Spans,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let layout = Layout::<B>::new(&spans, &q);
    let [q, k, v] = [q, k, v].map(with_padding::<B>);
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for group in &layout.placed.padded.groups {
        let scores = layout.scores(group, layout.queries(group, &q), layout.keys(group, &k));
        let highest = B::float_max_dim(scores.clone(), 2);
        let weights = B::float_exp(B::float_sub(scores, highest.clone()));
        let total = B::float_sum_dim(weights.clone(), 2);
        let out = B::float_matmul(weights, layout.keys(group, &v));
        outs.push(layout.unfold_queries(group, B::float_div(out, total.clone())));
        lses.push(layout.unfold_queries(group, B::float_add(highest, B::float_log(total))));
    }
    (B::float_cast(layout.stream_of_queries(outs), dtype.into()), layout.stream_of_queries(lses))
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    spans: Spans,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let layout = Layout::<B>::new(&spans, &q);
    let [q, k, v, out, lse, grad] = [q, k, v, out, lse, grad].map(with_padding::<B>);
    let [mut grad_q, mut grad_k, mut grad_v] = [(); 3].map(|()| Vec::new());
    for group in &layout.placed.padded.groups {
        let (queries, grads) = (layout.queries(group, &q), layout.queries(group, &grad));
        let keys = layout.keys(group, &k);
        let scores = layout.scores(group, queries.clone(), keys.clone());
        let weights = B::float_exp(B::float_sub(scores, layout.queries(group, &lse)));
        let shared = B::float_sum_dim(B::float_mul(grads.clone(), layout.queries(group, &out)), 2);
        let grad_weights = B::float_matmul(grads.clone(), B::float_transpose(layout.keys(group, &v)));
        let grad_scores = B::float_mul(weights.clone(), B::float_sub(grad_weights, shared));
        let grad_scores = B::float_mul_scalar(grad_scores, spans.scale.into());
        grad_q.push(layout.unfold_queries(group, B::float_matmul(grad_scores.clone(), keys)));
        grad_k.push(layout.unfold_keys(group, B::float_matmul(B::float_transpose(grad_scores), queries)));
        grad_v.push(layout.unfold_keys(group, B::float_matmul(B::float_transpose(weights), grads)));
    }
    let cast = |grad| B::float_cast(grad, dtype.into());
    let (grad_q, grad_k) = (layout.stream_of_queries(grad_q), layout.stream_of_keys(grad_k));
    (cast(grad_q), cast(grad_k), cast(layout.stream_of_keys(grad_v)))
}

/// `x` `[rows, width]` in f32 with a row of zeros appended, which padding refers to.
fn with_padding<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (width, device) = (x.shape()[1], x.device());
    let zeros = B::float_zeros([1, width].into(), &device, FloatDType::F32);
    B::float_cat(vec![B::float_cast(x, FloatDType::F32), zeros], 0)
}

/// The padded batches of a stream for a number of heads, and their indices on a device.
#[derive(Debug, Clone)]
struct Placed<I> {
    heads: usize,
    padded: Arc<Padded>,
    indices: I,
}

/// The padded batches on a device. The query heads of a key head are rows of one matrix, so that its keys are not copied: queries `[segments * kv_heads, heads / kv_heads * rows, d]`, keys `[segments * kv_heads, keys, d]`.
struct Layout<'a, B: Backend> {
    spans: &'a Spans,
    placed: Placed<IntTensor<B>>,
}

impl<'a, B: Backend> Layout<'a, B> {
    /// The layout for tensors on the device of `x`, made once for all layers.
    fn new(spans: &'a Spans, x: &FloatTensor<B>) -> Self {
        let device = x.device();
        let fits = |kept: &Placed<IntTensor<B>>| kept.heads == spans.heads && kept.indices.device() == device;
        let placed = spans.segments.padded.get(fits, || {
            let padded = Arc::new(Padded::new(spans));
            Placed { heads: spans.heads, indices: upload::<B>(&padded.indices, &device), padded }
        });
        Self { spans, placed }
    }

    fn indices(&self, range: &Range<usize>) -> IntTensor<B> {
        B::int_slice(self.placed.indices.clone(), &[Slice::from(range.clone())])
    }

    fn numbers(&self, range: &Range<usize>, shape: [usize; 5]) -> FloatTensor<B> {
        B::float_reshape(B::int_into_float(self.indices(range), FloatDType::F32), shape.into())
    }

    /// The queries of a group, of `x` `[rows + 1, heads * d]`.
    fn queries(&self, group: &Group, x: &FloatTensor<B>) -> FloatTensor<B> {
        self.fold(x, &group.queries, [group.segments, group.rows, self.spans.group()])
    }

    /// The keys or values of a group, of `x` `[rows + 1, kv_heads * d]`.
    fn keys(&self, group: &Group, x: &FloatTensor<B>) -> FloatTensor<B> {
        self.fold(x, &group.key_rows, [group.segments, group.keys, 1])
    }

    fn fold(&self, x: &FloatTensor<B>, rows: &Range<usize>, [segments, count, heads]: [usize; 3]) -> FloatTensor<B> {
        let kv_heads = self.spans.kv_heads;
        let d = x.shape()[1] / kv_heads / heads;
        let x = B::float_select(x.clone(), 0, self.indices(rows));
        let x = B::float_reshape(x, [segments, count, kv_heads, heads, d].into());
        B::float_reshape(B::float_permute(x, &[0, 2, 3, 1, 4]), [segments * kv_heads, heads * count, d].into())
    }

    /// The queries of a group as rows, `[segments * rows, heads * d]`.
    fn unfold_queries(&self, group: &Group, x: FloatTensor<B>) -> FloatTensor<B> {
        self.unfold(x, [group.segments, group.rows, self.spans.group()])
    }

    /// The keys of a group as rows, `[segments * keys, kv_heads * d]`.
    fn unfold_keys(&self, group: &Group, x: FloatTensor<B>) -> FloatTensor<B> {
        self.unfold(x, [group.segments, group.keys, 1])
    }

    fn unfold(&self, x: FloatTensor<B>, [segments, count, heads]: [usize; 3]) -> FloatTensor<B> {
        let (kv_heads, d) = (self.spans.kv_heads, x.shape()[2]);
        let x = B::float_reshape(x, [segments, kv_heads, heads, count, d].into());
        B::float_reshape(B::float_permute(x, &[0, 3, 1, 2, 4]), [segments * count, kv_heads * heads * d].into())
    }

    /// Scaled scores of a group, `[segments * kv_heads, heads / kv_heads * rows, keys]`, very negative where they are
    /// masked.
    fn scores(&self, group: &Group, queries: FloatTensor<B>, keys: FloatTensor<B>) -> FloatTensor<B> {
        let Group { segments, rows, keys: count, .. } = *group;
        let scores = B::float_mul_scalar(B::float_matmul(queries, B::float_transpose(keys)), self.spans.scale.into());
        let shape = scores.shape();
        let last = self.numbers(&group.last, [segments, 1, 1, rows, 1]);
        let ahead = B::float_sub(self.numbers(&group.key_positions, [1, 1, 1, 1, count]), last);
        let mut masked = B::float_clamp(ahead.clone(), 0.0.into(), 1.0.into());
        if let Some(window) = self.spans.window {
            let behind = B::float_add_scalar(B::float_neg(ahead), (1.0 - window as f32).into());
            masked = B::float_add(masked, B::float_clamp(behind, 0.0.into(), 1.0.into()));
        }
        let by_head = [segments, self.spans.kv_heads, self.spans.group(), rows, count];
        let scores = B::float_reshape(scores, by_head.into());
        B::float_reshape(B::float_add(scores, B::float_mul_scalar(masked, (-1e30).into())), shape)
    }

    /// The queries of all groups in the order of the stream.
    fn stream_of_queries(&self, groups: Vec<FloatTensor<B>>) -> FloatTensor<B> {
        B::float_select(B::float_cat(groups, 0), 0, self.indices(&self.placed.padded.queries))
    }

    /// For every row of the stream, the sum over all copies of its key.
    fn stream_of_keys(&self, groups: Vec<FloatTensor<B>>) -> FloatTensor<B> {
        let keys = with_padding::<B>(B::float_cat(groups, 0));
        let lists = self.placed.padded.keys.iter().map(|list| B::float_select(keys.clone(), 0, self.indices(list)));
        lists.reduce(B::float_add).expect("a stream has a segment")
    }
}
