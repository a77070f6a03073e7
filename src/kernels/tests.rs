//! Every kernel's fast bodies against the portable one, and every backward pass against finite differences: on flex, and with the
//! feature `tch` on LibTorch.

#[cfg(feature = "tch")]
mod bf16;

use std::sync::Arc;

#[cfg(feature = "tch")]
use burn::backend::LibTorch;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata};
use burn::tensor::{Device, Distribution, FloatDType, Int, Tensor, TensorData};

use super::attention::{Segment, SpanAttention, Spans, attention};
use super::gelu::Gelu;
use super::indices::Indices;
use super::input::{GradientSum, Input};
use super::layout::Layout;
use super::packed::Packed;
use super::{
    adamw, embedding, gelu, layer_norm, linear, norm, residual, rms_norm, rotary, swiglu, token_kl, token_logps,
};
use crate::close::{self, Tolerance};
use crate::kernels::precision::Precision;

/// A test of the bodies for flex, and of those for LibTorch.
macro_rules! on_every_backend {
    ($($check:ident as $name:ident;)*) => {$(
        #[test]
        fn $name() {
            $check::<Flex>();
            #[cfg(feature = "tch")]
            $check::<LibTorch>();
        }
    )*};
}

on_every_backend! {
    attention_agrees as attention_bodies_agree;
    token_logps_agree as token_logps_bodies_agree;
    norms_agree as norm_bodies_agree;
    rotary_agrees as rotary_bodies_agree;
    activations_agree as activation_bodies_agree;
    squares_agree as squares_add_up_alike;
    tables_agree as table_bodies_agree;
    adamw_agrees as adamw_bodies_agree;
}

/// The devices of these back ends.
fn devices() -> Vec<Device> {
    vec![
        Device::flex(),
        #[cfg(feature = "tch")]
        Device::libtorch(),
    ]
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn raw<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().unwrap_or_else(|_| panic!("a flex tensor"))
}

/// Random numbers for a back end.
fn numbers<B: Backend, const D: usize>(shape: [usize; D]) -> FloatTensor<B> {
    B::float_from_data(random(shape).into_data(), &Default::default())
}

fn host<B: Backend>(tensor: &FloatTensor<B>) -> Vec<f32> {
    let wide = B::float_cast(tensor.clone(), FloatDType::F32);
    let data = burn::tensor::try_read_sync(B::float_into_data(wide)).expect("these back ends read at once");
    data.unwrap().try_into_vec::<f32>().unwrap()
}

#[track_caller]
fn assert_same<B: Backend>(fast: &FloatTensor<B>, portable: &FloatTensor<B>, tolerance: f64) {
    assert_eq!(fast.shape(), portable.shape());
    assert_eq!(fast.dtype(), portable.dtype());
    let context = format_args!("fast and portable on {}", B::name(&fast.device()));
    close::assert_close(&host::<B>(fast), &host::<B>(portable), Tolerance::Relative(tolerance), context);
}

#[track_caller]
fn assert_close(fast: &FlexTensor, portable: &FlexTensor, tolerance: f64) {
    assert_same::<Flex>(fast, portable, tolerance);
}

/// Two prompts with two answers each, one prompt alone, lengths around the tile size.
fn spans(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> (Spans, usize) {
    let mut segments: Vec<Segment> = Vec::new();
    for (rows, prefix) in [(70, None), (5, Some(0)), (130, Some(0)), (1, None), (64, Some(3)), (3, Some(3)), (65, None)]
    {
        let start = segments.last().map_or(0, |last| last.start + last.rows);
        segments.push(Segment { start, rows, prefix });
    }
    let rows = segments.iter().map(|segment| segment.rows).sum();
    (Spans { window, ..Spans::new(Arc::new(segments.into()), heads, kv_heads, head_dim) }, rows)
}

fn attention_agrees<B: SpanAttention>() {
    let windows = [None, Some(1), Some(7), Some(64), Some(100), Some(1000)];
    let shapes = [(4, 2, 8), (3, 3, 16), (6, 1, 4)];
    for (window, (heads, kv_heads, head_dim)) in windows.into_iter().zip(shapes.into_iter().cycle()) {
        let (spans, rows) = spans(heads, kv_heads, head_dim, window);
        let q = numbers::<B, 2>([rows, heads * head_dim]);
        let [k, v] = [(); 2].map(|()| numbers::<B, 2>([rows, kv_heads * head_dim]));
        let (out, lse) = B::span_attention(q.clone(), k.clone(), v.clone(), spans.clone());
        let (want, want_lse) = super::attention::portable::<B>(q.clone(), k.clone(), v.clone(), spans.clone());
        assert_same::<B>(&out, &want, 1e-5);
        assert_same::<B>(&lse, &want_lse, 1e-5);
        let grad = numbers::<B, 2>([rows, heads * head_dim]);
        let arguments = || (q.clone(), k.clone(), v.clone(), out.clone(), lse.clone(), grad.clone());
        let (q1, k1, v1, o1, l1, g1) = arguments();
        let fast = B::span_attention_backward(q1, k1, v1, o1, l1, g1, spans.clone());
        let (q1, k1, v1, o1, l1, g1) = arguments();
        let portable = super::attention::portable_backward::<B>(q1, k1, v1, o1, l1, g1, spans);
        assert_same::<B>(&fast.0, &portable.0, 2e-5);
        assert_same::<B>(&fast.1, &portable.1, 2e-5);
        assert_same::<B>(&fast.2, &portable.2, 2e-5);
    }
}

fn token_logps_agree<B: token_logps::TokenLogps>() {
    for (rows, vocabulary, d) in [(5, 40, 8), (300, 1100, 16), (1, 1, 4), (2100, 7, 3)] {
        let (hidden, head) = (numbers::<B, 2>([rows, d]), numbers::<B, 2>([vocabulary, d]));
        let targets: Indices = (0..rows).map(|row| (row * 7919 % vocabulary) as i32).collect();
        let (logps, lse) = B::token_logps(hidden.clone(), head.clone(), targets.clone());
        let (want, want_lse) = token_logps::portable::<B>(hidden.clone(), head.clone(), targets.clone());
        assert_same::<B>(&logps, &want, 1e-5);
        assert_same::<B>(&lse, &want_lse, 1e-5);
        let grad = numbers::<B, 1>([rows]);
        for trains in [true, false] {
            let arguments = || (hidden.clone(), head.clone(), lse.clone(), grad.clone(), targets.clone());
            let (h, w, l, g, t) = arguments();
            let fast = B::token_logps_backward(h, w, l, g, t, trains);
            let (h, w, l, g, t) = arguments();
            let portable = token_logps::portable_backward::<B>(h, w, l, g, t, trains);
            assert_same::<B>(&fast.0, &portable.0, 5e-5);
            assert_eq!((fast.1.is_some(), portable.1.is_some()), (trains, trains));
            if let (Some(fast), Some(portable)) = (fast.1, portable.1) {
                assert_same::<B>(&fast, &portable, 5e-5);
            }
        }
    }
}

#[test]
fn a_tables_gradient_is_burns_tied_to_a_head_or_not() {
    devices().into_iter().for_each(tables_gradient_is_burns);
}

fn tables_gradient_is_burns(device: Device) {
    let device = device.autodiff();
    let (table, x) = (random([9, 4]).into_data(), random([3, 4]).into_data());
    let grads = [random([5, 4]).into_data(), random([3, 9]).into_data()];
    let gradient = |rows: fn(Tensor<2>, &[i32]) -> Tensor<2>, tied: bool| {
        let table = Tensor::<2>::from_data(table.clone(), &device).require_grad();
        let [of_rows, of_head] = grads.clone().map(|grads| Tensor::<2>::from_data(grads, &device));
        let mut sum = (rows(table.clone(), &[3, 0, 3, 8, 3]) * of_rows).sum();
        if tied {
            let x = Tensor::from_data(x.clone(), &device);
            sum = sum + (linear::linear(x, table.clone(), Layout::OutIn) * of_head).sum();
        }
        table.grad(&sum.backward()).unwrap().into_data().try_into_vec::<f32>().unwrap()
    };
    let of_burn = |table: Tensor<2>, ids: &[i32]| {
        let ids = Tensor::<1, Int>::from_data(ids, &table.device());
        table.select(0, ids)
    };
    for tied in [false, true] {
        let own = gradient(|table, ids| embedding::table_rows(table, ids.into()), tied);
        close::assert_close(&own, &gradient(of_burn, tied), Tolerance::Relative(1e-6), format_args!("tied: {tied}"));
    }
}

fn squares_agree<B: norm::Norm>() {
    let x = numbers::<B, 1>([50_001]);
    assert_same::<B>(&B::squared_norm(x.clone()), &norm::portable::<B>(x), 1e-5);
}

fn tables_agree<B: embedding::Embedding>() {
    let (table, rows) = (numbers::<B, 2>([9, 4]), numbers::<B, 2>([5, 4]));
    let ids = Indices::from([3, 0, 3, 8, 3]);
    let want: Vec<f32> = ids.host().iter().flat_map(|id| host::<B>(&table)[*id as usize * 4..][..4].to_vec()).collect();
    assert_eq!(host::<B>(&B::table_rows(table.clone(), ids.clone())), want);
    let want = embedding::portable_add_rows::<B>(table.clone(), &ids, rows.clone());
    let before = host::<B>(&table);
    assert_same::<B>(&B::add_rows(table.clone(), ids, rows), &want, 1e-6);
    assert_eq!(host::<B>(&table), before, "a table that others hold stays as it is");
}

#[test]
fn token_kl_bodies_agree() {
    use token_kl::TokenKl;
    for (rows, vocabulary, d, width) in [(5, 40, 8, 8), (300, 1100, 16, 12), (1, 1, 4, 2)] {
        let (hidden, head) = (raw(random([rows, d])), raw(random([vocabulary, d])));
        let (reference, other) = (raw(random([rows, width])), random([vocabulary, width]));
        let targets: Indices = (0..rows).map(|row| (row * 7919 % vocabulary) as i32).collect();
        let numbers = other.clone().into_data().try_into_vec::<f32>().unwrap();
        let packed = Packed::new([vocabulary, width], Precision::F32, |entry, input| numbers[entry * width + input]);
        let (packed, other) = (Arc::new(packed), raw(other));
        let arguments = || (hidden.clone(), head.clone(), reference.clone(), targets.clone());

        let (h, w, r, t) = arguments();
        let (want, want_constant) = token_kl::portable::<Flex>(h, w, r, other.clone(), t);
        let (h, w, r, t) = arguments();
        let plain = Flex::token_kl(h, w, r, other.clone(), t);
        let (h, w, r, t) = arguments();
        let frozen = Flex::packed_token_kl(h, w, r, packed.clone(), t);
        for (out, constant) in [&plain, &frozen] {
            assert_close(out, &want, 1e-5);
            assert_close(constant, &want_constant, 1e-5);
        }

        let lse = Tensor::<2>::from_primitive::<Flex>(want_constant).narrow(0, 0, 2);
        let saved = raw(Tensor::cat(vec![lse, random([2, rows])], 0));
        for trains in [true, false] {
            let (h, w, r, t) = arguments();
            let want = token_kl::portable_backward::<Flex>(h, w, r, other.clone(), saved.clone(), t, trains);
            let (h, w, r, t) = arguments();
            let plain = Flex::token_kl_backward(h, w, r, other.clone(), saved.clone(), t, trains);
            let (h, w, r, t) = arguments();
            let frozen = Flex::packed_token_kl_backward(h, w, r, packed.clone(), saved.clone(), t, trains);
            for (grad_hidden, grad_head) in [&plain, &frozen] {
                assert_close(grad_hidden, &want.0, 5e-5);
                assert_eq!((grad_head.is_some(), want.1.is_some()), (trains, trains));
                if let (Some(got), Some(want)) = (grad_head, &want.1) {
                    assert_close(got, want, 5e-5);
                }
            }
        }
    }
}

#[test]
fn token_kl_is_pytorchs() {
    // import torch; torch.set_default_dtype(torch.float64)
    // table = lambda rows, columns, step: torch.sin(step * torch.arange(1, rows * columns + 1)).reshape(rows, columns)
    // hidden, head = table(3, 2, 1.0).requires_grad_(), table(5, 2, 2.0).requires_grad_()
    // logp, ref = (hidden @ head.T).log_softmax(1), (table(3, 3, 3.0) @ table(5, 3, 4.0).T).log_softmax(1)
    // at, kl = torch.tensor([[4], [0], [2]]), (ref.exp() * (ref - logp)).sum(1)
    // logps, grads = logp.gather(1, at)[:, 0], torch.tensor([0.5, -1.0, 2.0])
    // (logps * grads + kl * grads.flip(0)).sum().backward()
    // print(logps, kl, ref.gather(1, at), hidden.grad, head.grad)
    let device = Device::flex();
    let table = |rows: usize, columns: usize, step: f64| {
        let values = (1..=rows * columns).map(|index| (step * index as f64).sin() as f32).collect::<Vec<_>>();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
    };
    let [hidden, head] = [table(3, 2, 1.0), table(5, 2, 2.0)].map(|table| table.autodiff().require_grad());
    let reference = [table(3, 3, 3.0), table(5, 3, 4.0)].map(Tensor::autodiff);
    let compared = token_kl::token_kl([hidden.clone(), head.clone()], reference, [4, 0, 2].into());
    let flat = |values: &[f32]| Tensor::<1>::from_data(values, &device);
    let grads = |values: [f32; 3]| flat(&values).autodiff();
    let (a, b) = (grads([0.5, -1.0, 2.0]), grads([2.0, -1.0, 0.5]));
    let gradients = (compared.logps.clone() * a + compared.divergences.clone() * b).sum().backward();
    let all = |tensor: Tensor<2>| tensor.grad(&gradients).unwrap().flatten(0, 1);
    let found = [compared.logps, compared.divergences, compared.reference].map(Tensor::inner);
    let [hidden, head] = [hidden, head].map(all);
    let want: [&[f32]; 5] = [
        &[-1.658498, -1.046619, -1.028913],
        &[0.158178, 0.292173, 0.536148],
        &[-1.129511, -1.095975, -2.652719],
        &[-0.097378, 0.469228, -0.744876, 0.727717, -0.484304, -1.566658],
        &[0.016076, 0.50396, 0.468578, -0.008891, -1.53913, -0.76733, 0.199956, -0.036296, 0.85452, 0.308557],
    ];
    for (got, want) in found.into_iter().chain([hidden, head]).zip(want) {
        assert_close(&raw(got), &raw(flat(want)), 2e-6);
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let (hidden, head): (Tensor<2>, Tensor<2>) = (random([30, 6]), random([700, 6]) * 5.0);
    let own = [hidden, head];
    let compared = token_kl::token_kl(own.clone(), own, std::iter::repeat_n(3, 30).collect());
    assert_close(&raw(compared.divergences), &raw(Tensor::<1>::zeros([30], &Device::flex())), 1e-6);
    assert_close(&raw(compared.logps), &raw(compared.reference), 1e-7);
}

fn norms_agree<B: rms_norm::RmsNorm + layer_norm::LayerNorm>() {
    let out = FloatDType::F32;
    let [x, grad] = [(); 2].map(|()| numbers::<B, 2>([200, 24]));
    let [weight, bias] = [(); 2].map(|()| numbers::<B, 1>([24]));
    let fast = B::rms_norm(x.clone(), weight.clone(), 1e-5, out, GradientSum::default());
    let portable = rms_norm::portable::<B>(x.clone(), weight.clone(), 1e-5, out);
    assert_same::<B>(&fast.0, &portable.0, 1e-5);
    assert_same::<B>(&fast.1, &portable.1, 1e-5);
    for trains in [true, false] {
        let r = || portable.1.clone();
        let fast = B::rms_norm_backward(x.clone(), weight.clone(), r(), grad.clone(), trains);
        let portable = rms_norm::portable_backward::<B>(x.clone(), weight.clone(), r(), grad.clone(), trains);
        assert_same::<B>(&fast.0, &portable.0, 1e-5);
        assert_eq!((fast.1.is_some(), portable.1.is_some()), (trains, trains));
        if let (Some(fast), Some(portable)) = (fast.1, portable.1) {
            assert_same::<B>(&fast, &portable, 5e-5);
        }
        let sum = numbers::<B, 2>([200, 24]);
        let onto = B::rms_norm_backward_onto(sum.clone(), x.clone(), weight.clone(), r(), grad.clone(), trains);
        assert_same::<B>(&onto.0, &B::float_add(sum, portable.0), 1e-5);
    }

    let shifted = B::float_add_scalar(B::float_mul_scalar(x, 3.0.into()), 1.0.into());
    let fast = B::rows_layer_norm(shifted.clone(), weight.clone(), bias.clone(), 1e-5, out);
    let portable = layer_norm::portable::<B>(shifted.clone(), weight.clone(), bias, 1e-5, out);
    assert_same::<B>(&fast, &portable, 1e-5);
    let fast = B::rows_layer_norm_backward(shifted.clone(), weight.clone(), grad.clone(), 1e-5);
    let portable = layer_norm::portable_backward::<B>(shifted, weight, grad, 1e-5);
    assert_same::<B>(&fast.0, &portable.0, 1e-5);
    assert_same::<B>(&fast.1, &portable.1, 5e-5);
    assert_same::<B>(&fast.2, &portable.2, 5e-5);
}

fn activations_agree<B: swiglu::SwiGlu + gelu::GeluKernel>() {
    let [x, up, grad] = [(); 3].map(|()| numbers::<B, 2>([200, 24]));
    let before = host::<B>(&x);
    assert_same::<B>(&B::swiglu(x.clone(), up.clone()), &swiglu::portable::<B>(x.clone(), up.clone()), 1e-6);
    let fast = B::swiglu_backward(x.clone(), up.clone(), grad.clone());
    let portable = swiglu::portable_backward::<B>(x.clone(), up, grad.clone());
    assert_same::<B>(&fast.0, &portable.0, 1e-5);
    assert_same::<B>(&fast.1, &portable.1, 1e-5);
    for kind in [Gelu::Exact, Gelu::Tanh] {
        assert_same::<B>(&B::rows_gelu(x.clone(), kind), &gelu::portable::<B>(x.clone(), kind), 1e-6);
        let fast = B::rows_gelu_backward(x.clone(), grad.clone(), kind);
        assert_same::<B>(&fast, &gelu::portable_backward::<B>(x.clone(), grad.clone(), kind), 2e-6);
    }
    assert_eq!(host::<B>(&x), before, "a tensor that others hold stays as it is");
}

fn rotary_agrees<B: rotary::Rotary>() {
    let x = numbers::<B, 2>([200, 24]);
    let before = host::<B>(&x);
    let [cos, sin] = [(); 2].map(|()| numbers::<B, 2>([200, 4]));
    let minus_sin = B::float_neg(sin.clone());
    for head_dim in [8, 12] {
        let arguments = || (x.clone(), cos.clone(), sin.clone(), minus_sin.clone());
        let (x1, c, s, m) = arguments();
        let fast = B::rotary(x1, c, s, m, head_dim);
        let (x1, c, s, m) = arguments();
        assert_same::<B>(&fast, &rotary::portable::<B>(x1, c, s, m, head_dim), 1e-6);
    }
    assert_eq!(host::<B>(&x), before, "a tensor that others hold stays as it is");
}

#[test]
fn adamw_is_pytorchs() {
    // import torch; p = torch.tensor([1., -2.], requires_grad=True)
    // o = torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    // for g in ([0.5, -0.1], [0.2, 0.3]): p.grad = torch.tensor(g); o.step()
    // The same by hand: step 1 moves each entry by lr * sign(g) after the decay by 1 - lr * wd = 0.999.
    devices().into_iter().for_each(adamw_on_is_pytorchs);
}

fn step(count: u64, gradient_scale: f64) -> adamw::Step {
    adamw::Step { learning_rate: 0.1, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.01, count, gradient_scale }
}

fn adamw_agrees<B: adamw::AdamW>() {
    for scale in [1.0, 0.3] {
        let [p, m, v, g] = [(); 4].map(|()| B::float_abs(numbers::<B, 1>([7])));
        let (p1, m1, v1, g1) = (p.clone(), m.clone(), v.clone(), g.clone());
        let fast = B::adamw(p1, m1, v1, g1, step(3, scale));
        let portable = adamw::portable::<B>(p, m, v, g, step(3, scale));
        assert_same::<B>(&fast.0, &portable.0, 1e-6);
        assert_same::<B>(&fast.1, &portable.1, 1e-6);
        assert_same::<B>(&fast.2, &portable.2, 1e-6);
    }
}

fn adamw_on_is_pytorchs(device: Device) {
    let flat = |values: [f32; 2]| Tensor::<1>::from_data(values, &device);
    let assert_close = |got: Tensor<1>, want: Tensor<1>| {
        let [got, want] = [got, want].map(|tensor| tensor.into_data().try_into_vec::<f32>().unwrap());
        close::assert_close(&got, &want, Tolerance::Relative(1e-6), format_args!("parameters"));
    };
    let [p, m, v] = adamw::adamw(flat([1.0, -2.0]), [flat([0.0; 2]), flat([0.0; 2])], flat([0.5, -0.1]), step(1, 1.0));
    assert_close(p.clone(), flat([0.899, -1.898]));
    let [p, ..] = adamw::adamw(p, [m.clone(), v.clone()], flat([0.2, 0.3]), step(2, 1.0));
    let expected = |start: f64, g: [f64; 2]| {
        let m = (0.9 * 0.1 * g[0] + 0.1 * g[1]) / (1.0 - 0.81);
        let v = (0.95 * 0.05 * g[0] * g[0] + 0.05 * g[1] * g[1]) / (1.0 - 0.9025);
        (start * 0.999 - 0.1 * m / (v.sqrt() + 1e-8)) as f32
    };
    let want = flat([expected(0.899, [0.5, 0.2]), expected(-1.898, [-0.1, 0.3])]);
    assert_close(p, want);
}

/// Checks `d sum(weights * f(x)) / dx` by central differences along random directions.
fn check_gradient<const D: usize, const O: usize>(x: Tensor<D>, f: impl Fn(Tensor<D>) -> Tensor<O>) {
    let out = f(x.clone());
    let device = x.device();
    let weights = random(out.dims()).to_device(&device);
    let value = |x: Tensor<D>| -> f64 { f64::from((f(x) * weights.clone()).sum().into_scalar::<f32>()) };
    let leaf = x.clone().autodiff().require_grad();
    let loss = (f(leaf.clone()) * weights.clone().autodiff()).sum();
    let grad = leaf.grad(&loss.backward()).expect("a gradient");
    for _ in 0..3 {
        let direction = random(x.dims()).to_device(&device);
        let h = 2e-3;
        let numeric = (value(x.clone() + direction.clone() * h) - value(x.clone() - direction.clone() * h)) / (2.0 * h);
        let analytic = f64::from((grad.clone() * direction).sum().into_scalar::<f32>());
        close::assert_close(&[analytic], &[numeric], Tolerance::Relative(1e-2), format_args!("derivative"));
    }
}

#[test]
fn gradients_match_finite_differences() {
    devices().into_iter().for_each(gradients_match);
}

fn gradients_match(device: Device) {
    fn on<const D: usize>(device: &Device, shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }
    for window in [None, Some(9)] {
        let (spans, rows) = spans(4, 2, 4, window);
        let (q, k, v) = (on(&device, [rows, 16]), on(&device, [rows, 8]), on(&device, [rows, 8]));
        let call = |q, k, v| attention(q, k, v, spans.clone());
        check_gradient(q.clone(), |q| call(q, k.clone(), v.clone()));
        check_gradient(k.clone(), |k| call(q.clone(), k, v.clone()));
        check_gradient(v.clone(), |v| call(q.clone(), k.clone(), v));
    }

    let (hidden, head) = (on(&device, [9, 6]), on(&device, [30, 6]));
    let targets: Indices = (0..9).map(|row| row * 3).collect();
    check_gradient(hidden.clone(), |x| token_logps::token_logps(x, head.clone(), targets.clone()));
    check_gradient(head.clone(), |w| token_logps::token_logps(hidden.clone(), w, targets.clone()));

    let reference: [Tensor<2>; 2] = [on(&device, [9, 4]), on(&device, [30, 4])];
    let compare = |hidden: Tensor<2>, head: Tensor<2>| {
        let compared = token_kl::token_kl([hidden, head], reference.clone(), targets.clone());
        Tensor::cat(vec![compared.logps, compared.divergences], 0)
    };
    check_gradient(hidden.clone(), |x| compare(x, head.clone()));
    check_gradient(head, |w| compare(hidden.clone(), w));

    let (x, w) = (on(&device, [5, 8]), on(&device, [3, 8]));
    for (w, layout) in [(w.clone(), Layout::OutIn), (w.transpose(), Layout::InOut)] {
        check_gradient(x.clone(), |x| linear::linear(x, w.clone(), layout));
        check_gradient(w, |w| linear::linear(x.clone(), w, layout));
    }
    // Readers of one tensor, whose gradients add up in one sum: products, a norm and a residual.
    let (left, right, scale) = (on(&device, [8, 8]), on(&device, [8, 8]), on(&device, [8]));
    check_gradient(x.clone(), |x| {
        let x = Input::shared(x * 2.0);
        let product = |weight: &Tensor<2>| linear::linear(x.clone(), weight.clone(), Layout::OutIn);
        let normed = rms_norm::rms_norm(x.clone(), scale.clone(), 1e-5, FloatDType::F32);
        residual::residual(x.clone(), product(&left) * product(&right) + normed) + x.clone().tensor()
    });
    let scale = on(&device, [8]);
    check_gradient(x.clone(), |x| rms_norm::rms_norm(x, scale.clone(), 1e-5, FloatDType::F32));
    check_gradient(scale, |w| rms_norm::rms_norm(x.clone(), w, 1e-5, FloatDType::F32));
    let (scale, shift) = (on(&device, [8]), on(&device, [8]));
    let norm = |x, w, b| layer_norm::layer_norm(x, w, b, 1e-5, FloatDType::F32);
    check_gradient(x.clone(), |x| norm(x, scale.clone(), shift.clone()));
    check_gradient(scale.clone(), |w| norm(x.clone(), w, shift.clone()));
    check_gradient(shift, |b| norm(x.clone(), scale.clone(), b));
    for kind in [Gelu::Exact, Gelu::Tanh] {
        check_gradient(x.clone(), |x| gelu::gelu(x, kind));
    }
    let y = on(&device, [5, 8]);
    check_gradient(x.clone(), |x| residual::residual(x, y.clone()));
    check_gradient(y, |y| residual::residual(x.clone(), y));
    let up = on(&device, [5, 8]);
    check_gradient(x.clone(), |x| swiglu::swiglu(x, up.clone()));
    check_gradient(up, |up| swiglu::swiglu(x.clone(), up));
    let angles: Tensor<2> = on(&device, [5, 2]);
    for head_dim in [4, 8] {
        let tables = || [angles.clone().cos(), angles.clone().sin(), -angles.clone().sin()];
        check_gradient(x.clone(), |x| rotary::rotary(x, tables(), head_dim));
    }
}
