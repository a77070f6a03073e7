//! The layout that FlashAttention gets, with a plain computation in its place: what a machine without a GPU can check.

use std::sync::Arc;

use burn::backend::LibTorch;
use tch::{Kind, Tensor};

use super::super::{Segment, Stream};
use super::*;

/// Attention of one sequence after the other.
enum Plain {}

/// Queries, keys and values of a sequence in f32, `[heads, _, d]`, and where a query does not see a key.
fn sequence(qkv: [&Tensor; 3], sequences: &Sequences, index: usize) -> ([Tensor; 3], Tensor) {
    let ends = |ends: &Tensor, index: usize| i64::from(i32::try_from(ends.get(index as i64)).unwrap());
    let part = |x: &Tensor, all: &Tensor| {
        let start = ends(all, index);
        x.narrow(0, start, ends(all, index + 1) - start).to_kind(Kind::Float).transpose(0, 1)
    };
    let (queries, keys) = (sequences.query_ends, sequences.key_ends);
    let [q, k, v] = [part(qkv[0], queries), part(qkv[1], keys), part(qkv[2], keys)];
    let group = q.size()[0] / k.size()[0];
    let [k, v] = [k, v].map(|x| x.repeat_interleave_self_int(group, 0, None));
    let (rows, all) = (q.size()[1], k.size()[1]);
    let ahead = Tensor::arange(all, (Kind::Int64, q.device())).unsqueeze(0)
        - Tensor::arange(rows, (Kind::Int64, q.device())).unsqueeze(1)
        - (all - rows);
    let hidden = ahead.gt(0).logical_or(&ahead.le(-sequences.window.unwrap_or(i64::MAX)));
    ([q, k, v], hidden)
}

fn scores(q: &Tensor, k: &Tensor, hidden: &Tensor, sequences: &Sequences) -> Tensor {
    (q.matmul(&k.transpose(1, 2)) * sequences.scale).masked_fill(hidden, f64::NEG_INFINITY)
}

fn count(sequences: &Sequences) -> usize {
    sequences.query_ends.size()[0] as usize - 1
}

impl VariableLength for Plain {
    fn forward(qkv: [&Tensor; 3], sequences: &Sequences) -> (Tensor, Tensor) {
        let parts = (0..count(sequences)).map(|index| {
            let ([q, k, v], hidden) = sequence(qkv, sequences, index);
            let scores = scores(&q, &k, &hidden, sequences);
            let out = scores.softmax(-1, None::<Kind>).matmul(&v);
            (out.transpose(0, 1), scores.logsumexp([-1i64], false))
        });
        let (outs, lses): (Vec<_>, Vec<_>) = parts.unzip();
        (Tensor::cat(&outs, 0).to_kind(qkv[0].kind()), Tensor::cat(&lses, 1))
    }

    fn backward(
        qkv: [&Tensor; 3],
        out: &Tensor,
        lse: &Tensor,
        grad: &Tensor,
        sequences: &Sequences,
    ) -> (Tensor, Tensor, Tensor) {
        let kind = qkv[0].kind();
        let mut found = [(); 3].map(|()| Vec::new());
        for index in 0..count(sequences) {
            let ([q, k, v], hidden) = sequence(qkv, sequences, index);
            let start = i64::from(i32::try_from(sequences.query_ends.get(index as i64)).unwrap());
            let own = |x: &Tensor| x.narrow(0, start, q.size()[1]).to_kind(Kind::Float).transpose(0, 1);
            let (out, grad) = (own(out), own(grad));
            let lse = lse.narrow(1, start, q.size()[1]).unsqueeze(2);
            let weights = (scores(&q, &k, &hidden, sequences) - lse).exp();
            let shared = (&out * &grad).sum_dim_intlist(&[-1i64][..], true, None::<Kind>);
            let errors = &weights * (grad.matmul(&v.transpose(1, 2)) - shared) * sequences.scale;
            // The gradients of a key head add up over its query heads.
            let heads = qkv[1].size()[1];
            let summed = |x: Tensor| {
                let x = x.unflatten(0, [heads, -1]).sum_dim_intlist(&[1i64][..], false, None::<Kind>);
                x.transpose(0, 1)
            };
            found[0].push(errors.matmul(&k).transpose(0, 1));
            found[1].push(summed(errors.transpose(1, 2).matmul(&q)));
            found[2].push(summed(weights.transpose(1, 2).matmul(&grad)));
        }
        let [q, k, v] = found.map(|parts| Tensor::cat(&parts, 0).to_kind(kind));
        (q, k, v)
    }
}

#[test]
fn gathered_keys_give_span_attention() {
    let segment = |start, rows, prefix| Segment { start, rows, prefix };
    let segments = [segment(0, 7, None), segment(7, 5, Some(0)), segment(12, 20, Some(0)), segment(32, 3, None)];
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
        for window in [None, Some(4), Some(9)] {
            let spans = Spans::new(Arc::new(Stream::from(segments.to_vec())), 4, 2, 8);
            let spans = Spans { window, ..spans };
            let random = |width: i64| fresh(Tensor::randn([35, width], (Kind::Float, Device::Cpu)).to_kind(kind));
            let [q, k, v, grad] = [random(32), random(16), random(16), random(32)];
            let (out, lse) = forward::<Plain>(&q, &k, &v, &spans);
            let (q1, k1, v1) = (q.clone(), k.clone(), v.clone());
            let (want, want_lse) = portable::portable::<LibTorch>(q1, k1, v1, spans.clone());
            let close = |got: &Tensor, want: &Tensor| {
                let [got, want] = [got, want].map(|x| x.to_kind(Kind::Float));
                let worst = f64::try_from((got - &want).abs().max()).unwrap();
                assert!(worst <= tolerance * f64::try_from(want.abs().max()).unwrap(), "{kind:?} {window:?}: {worst}");
            };
            close(&out.tensor, &want.tensor);
            close(&lse.tensor.tr(), &want_lse.tensor);
            let got = backward::<Plain>([&q, &k, &v, &out, &lse, &grad], &spans);
            let wanted = portable::portable_backward::<LibTorch>(q, k, v, want, want_lse, grad, spans);
            close(&got.0.tensor, &wanted.0.tensor);
            close(&got.1.tensor, &wanted.1.tensor);
            close(&got.2.tensor, &wanted.2.tensor);
        }
    }
}

#[test]
fn gathered_keys_of_a_cache_give_its_attention() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
        let mut recalled = Recalled::default();
        for (queries, rows) in [(1, 3..20), (7, 11..40), (1, 0..1)] {
            recalled.push(queries, rows.map(|row| (row * 7) % 90));
        }
        for window in [None, Some(5)] {
            let spans = Spans { window, ..Spans::new(Arc::new(Stream::from(Vec::new())), 4, 2, 8) };
            let random =
                |rows: i64, width: i64| fresh(Tensor::randn([rows, width], (Kind::Float, Device::Cpu)).to_kind(kind));
            let [q, keys, values] = [random(9, 32), random(90, 16), random(90, 16)];
            let got = from_cache::<Plain>([&q, &keys, &values], &recalled, &spans);
            let want = recalled::portable::<LibTorch>(q, keys, values, &recalled, &spans);
            let [got, want] = [got, want].map(|x| x.tensor.to_kind(Kind::Float));
            let worst = f64::try_from((got - &want).abs().max()).unwrap();
            assert!(worst <= tolerance * f64::try_from(want.abs().max()).unwrap(), "{kind:?} {window:?}: {worst}");
        }
    }
}

/// Runs where a GPU is: LibTorch's own kernel against the plain computation.
#[test]
fn flash_is_the_plain_computation() {
    if !tch::Cuda::is_available() {
        return;
    }
    let segment = |start, rows, prefix| Segment { start, rows, prefix };
    let segments = [segment(0, 37, None), segment(37, 50, Some(0)), segment(87, 41, Some(0)), segment(128, 130, None)];
    for (heads, kv_heads, head_dim, window) in [(8, 2, 64, None), (4, 4, 128, None), (9, 3, 64, Some(24))] {
        let spans = Spans::new(Arc::new(Stream::from(segments.to_vec())), heads, kv_heads, head_dim);
        let spans = Spans { window, ..spans };
        let random = |heads: usize| {
            let shape = [258, (heads * head_dim) as i64];
            fresh(Tensor::randn(shape, (Kind::Float, Device::Cuda(0))).to_kind(Kind::BFloat16))
        };
        let [q, k, v, grad] = [random(heads), random(kv_heads), random(kv_heads), random(heads)];
        let (out, lse) = forward::<Flash>(&q, &k, &v, &spans);
        let (want, want_lse) = forward::<Plain>(&q, &k, &v, &spans);
        let got = backward::<Flash>([&q, &k, &v, &out, &lse, &grad], &spans);
        let wanted = backward::<Plain>([&q, &k, &v, &want, &want_lse, &grad], &spans);
        let pairs = [(out, want), (lse, want_lse), (got.0, wanted.0), (got.1, wanted.1), (got.2, wanted.2)];
        for (got, want) in pairs {
            let [got, want] = [got, want].map(|x| x.tensor.to_kind(Kind::Float));
            let worst = f64::try_from((got - &want).abs().max()).unwrap();
            let most = f64::try_from(want.abs().max()).unwrap();
            assert!(worst <= 1e-2 * most, "{heads}/{kv_heads} heads of {head_dim}: {worst} of {most}");
        }
    }
}
