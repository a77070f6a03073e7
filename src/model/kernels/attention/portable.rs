//! Span attention in burn's operations, one segment after the other: runs on every device.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Slice, TensorData};

use super::{Segment, Spans};

pub(in super::super) fn portable<B: Backend>(
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

pub(in super::super) fn portable_backward<B: Backend>(
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
        let grad_scores = B::float_mul_scalar(grad_scores, spans.scale.into());
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
        let visible = (0..count).map(|row| self.spans.visible(before + row));
        let seen = visible.flat_map(|visible| (0..before + count).map(move |key| visible.contains(&key)));
        let mask: Vec<f32> = seen.map(|seen| if seen { 0.0 } else { -1e30 }).collect();
        let mask = B::float_from_data(TensorData::new(mask, [1, count, before + count]), &device);
        B::float_add(B::float_mul_scalar(scores, self.spans.scale.into()), mask)
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
