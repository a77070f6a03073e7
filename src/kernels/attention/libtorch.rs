//! Span attention on LibTorch: FlashAttention on gathered keys for bf16 and f16 on CUDA, the portable body for everything else. Single
//! queries to a cache are computed by a kernel of this crate on CUDA.

use std::sync::Arc;

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Device, Tensor};

use super::cuda::Singles;
use super::flash::{Flash, Sequences, VariableLength};
use super::gathered::Gathered;
use super::recalled::{self, Recall, Recalled};
use super::{SpanAttention, Spans, cuda, portable};
use crate::kernels::libtorch::{fresh, uploaded};

impl SpanAttention for LibTorch {
    fn span_attention(q: TchTensor, k: TchTensor, v: TchTensor, spans: Spans) -> (TchTensor, TchTensor) {
        match Flash::takes(&q.tensor, spans.head_dim) {
            true => forward::<Flash>(&q, &k, &v, &spans),
            false => portable::portable::<Self>(q, k, v, spans),
        }
    }

    fn span_attention_backward(
        q: TchTensor,
        k: TchTensor,
        v: TchTensor,
        out: TchTensor,
        lse: TchTensor,
        grad: TchTensor,
        spans: Spans,
    ) -> (TchTensor, TchTensor, TchTensor) {
        match Flash::takes(&q.tensor, spans.head_dim) {
            true => backward::<Flash>([&q, &k, &v, &out, &lse, &grad], &spans),
            false => portable::portable_backward::<Self>(q, k, v, out, lse, grad, spans),
        }
    }
}

impl Recall for LibTorch {
    fn recall(q: TchTensor, keys: TchTensor, values: TchTensor, recalled: Arc<Recalled>, spans: Spans) -> TchTensor {
        let (alone, rows) = (recalled.gathered.alone(), q.tensor.size()[0]);
        let cached = [&q.tensor, &keys.tensor, &values.tensor];
        if alone == 0 || !cuda::takes(cached, &spans) {
            return of_any(q, keys, values, &recalled, &spans);
        }
        let placed = Placed::recalled(&recalled, q.tensor.device());
        let ([list, _, ends], longest) = (placed.lists(), placed.longest[1] as usize);
        let singles = Singles { qkv: cached, count: alone, rows: &list, ends: &ends, longest };
        let Some(first) = cuda::recall(&singles, &spans) else {
            return of_any(q, keys, values, &recalled, &spans);
        };
        let alone = alone as i64;
        if alone == rows {
            return fresh(first);
        }
        let rest = fresh(q.tensor.narrow(0, alone, rows - alone).copy());
        let rest = of_any(rest, keys, values, &recalled.rest(alone as usize), &spans);
        fresh(Tensor::cat(&[first, rest.tensor], 0))
    }
}

/// Attention to a cache of sequences with any number of queries.
fn of_any(q: TchTensor, keys: TchTensor, values: TchTensor, recalled: &Recalled, spans: &Spans) -> TchTensor {
    match Flash::takes(&q.tensor, spans.head_dim) {
        true => from_cache::<Flash>([&q, &keys, &values], recalled, spans),
        false => recalled::portable::<LibTorch>(q, keys, values, recalled, spans),
    }
}

/// The gathered lists of sequences on a device.
#[derive(Debug, Clone)]
struct Placed {
    /// Rows of the keys, ends of the queries, ends of the keys: one list, in 32 bits.
    lists: TchTensor,
    /// The lengths of the first two.
    sizes: [i64; 2],
    longest: [i64; 2],
}

impl Placed {
    /// The lists of the stream of `spans`, made and copied once for all layers.
    fn new(spans: &Spans, device: Device) -> Self {
        let fits = |kept: &Self| kept.lists.tensor.device() == device;
        spans.segments.gathered.get(fits, || Self::of(&Gathered::new(spans), device))
    }

    /// The lists of the new rows of a cache, made and copied once for all layers.
    fn recalled(recalled: &Recalled, device: Device) -> Self {
        let fits = |kept: &Self| kept.lists.tensor.device() == device;
        recalled.on_device.get(fits, || Self::of(&recalled.gathered, device))
    }

    fn of(gathered: &Gathered, device: Device) -> Self {
        let Gathered { keys, query_ends, key_ends } = gathered;
        let sizes = [keys.len() as i64, query_ends.len() as i64];
        let lists = Tensor::from_slice(&[&keys[..], &query_ends[..], &key_ends[..]].concat());
        Self { lists: fresh(uploaded(lists, device)), sizes, longest: gathered.longest() }
    }

    /// Rows of the keys, ends of the queries, ends of the keys.
    fn lists(&self) -> [Tensor; 3] {
        let ([keys, ends], list) = (self.sizes, &self.lists.tensor);
        [list.narrow(0, 0, keys), list.narrow(0, keys, ends), list.narrow(0, keys + ends, ends)]
    }
}

fn forward<V: VariableLength>(q: &TchTensor, k: &TchTensor, v: &TchTensor, spans: &Spans) -> (TchTensor, TchTensor) {
    attended::<V>([q, k, v], &Placed::new(spans, q.tensor.device()), spans)
}

fn from_cache<V: VariableLength>(qkv: [&TchTensor; 3], recalled: &Recalled, spans: &Spans) -> TchTensor {
    attended::<V>(qkv, &Placed::recalled(recalled, qkv[0].tensor.device()), spans).0
}

/// The output, and the log-sum-exp of the scores.
fn attended<V: VariableLength>([q, k, v]: [&TchTensor; 3], placed: &Placed, spans: &Spans) -> (TchTensor, TchTensor) {
    let [keys, query_ends, key_ends] = placed.lists();
    let by_head = Heads::new(q, spans);
    let q = by_head.queries(&q.tensor);
    let [k, v] = [k, v].map(|x| by_head.keys(&x.tensor.index_select(0, &keys)));
    let (out, lse) = V::forward([&q, &k, &v], &sequences(placed, &query_ends, &key_ends, spans));
    (fresh(by_head.rows(out)), fresh(lse))
}

fn backward<V: VariableLength>(
    [q, k, v, out, lse, grad]: [&TchTensor; 6],
    spans: &Spans,
) -> (TchTensor, TchTensor, TchTensor) {
    let placed = Placed::new(spans, q.tensor.device());
    let [keys, query_ends, key_ends] = placed.lists();
    let by_head = Heads::new(q, spans);
    let [of_q, out, grad] = [q, out, grad].map(|x| by_head.queries(&x.tensor));
    let [of_k, of_v] = [k, v].map(|x| by_head.keys(&x.tensor.index_select(0, &keys)));
    let sequences = sequences(&placed, &query_ends, &key_ends, spans);
    let (grad_q, grad_k, grad_v) = V::backward([&of_q, &of_k, &of_v], &out, &lse.tensor, &grad, &sequences);
    // The gradients of all copies of a key add up, those of keys and values in the halves of one tensor.
    let size = k.tensor.size();
    let both = Tensor::zeros([2, size[0], size[1]], (k.tensor.kind(), k.tensor.device()));
    let fold = |half: i64, grad: Tensor| fresh(both.get(half).index_add_(0, &keys, &grad.view_([-1, size[1]])));
    (fresh(by_head.rows(grad_q)), fold(0, grad_k), fold(1, grad_v))
}

fn sequences<'a>(placed: &Placed, query_ends: &'a Tensor, key_ends: &'a Tensor, spans: &Spans) -> Sequences<'a> {
    let window = spans.window.map(|window| window as i64);
    Sequences { query_ends, key_ends, longest: placed.longest, scale: f64::from(spans.scale), window }
}

/// Rows as matrices of heads.
struct Heads {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
}

impl Heads {
    fn new(q: &TchTensor, spans: &Spans) -> Self {
        let head_dim = q.tensor.size()[1] / spans.heads as i64;
        Self { heads: spans.heads as i64, kv_heads: spans.kv_heads as i64, head_dim }
    }

    /// `[rows, heads, d]` of `[rows, heads * d]`; FlashAttention wants the numbers of a head side by side.
    fn queries(&self, x: &Tensor) -> Tensor {
        x.contiguous().view([-1, self.heads, self.head_dim])
    }

    fn keys(&self, x: &Tensor) -> Tensor {
        x.view([-1, self.kv_heads, self.head_dim])
    }

    fn rows(&self, x: Tensor) -> Tensor {
        x.contiguous().view([-1, self.heads * self.head_dim])
    }
}

#[cfg(test)]
mod tests;
