//! Bodies for LibTorch on numbers in bf16.

use super::*;

/// In bf16 every body differs from its f32 self by roundings of what goes in and out.
#[test]
fn bodies_for_libtorch_take_bf16() {
    use gelu::GeluKernel;
    use layer_norm::LayerNorm;
    use linear::Linear;
    use residual::Residual;
    use rms_norm::RmsNorm;
    use rotary::Rotary;
    use swiglu::SwiGlu;
    use token_logps::TokenLogps;
    type B = LibTorch;
    let cast = |x: &FloatTensor<B>, dtype| <B as burn::backend::ops::FloatTensorOps<B>>::float_cast(x.clone(), dtype);
    let narrow = |x: &FloatTensor<B>| cast(x, FloatDType::BF16);
    let close = |got: &FloatTensor<B>, want: &FloatTensor<B>| assert_same::<B>(&cast(got, FloatDType::F32), want, 2e-2);
    // Numbers that bf16 represents, in both types.
    let both = |shape: [usize; 2]| {
        let exact = narrow(&numbers::<B, 2>(shape));
        (cast(&exact, FloatDType::F32), exact)
    };
    let ((x, x16), (up, up16), (grad, grad16)) = (both([50, 24]), both([50, 24]), both([50, 24]));
    let vector = || numbers::<B, 1>([24]);
    let (weight, bias) = (vector(), vector());

    let (y, r) = B::rms_norm(x.clone(), weight.clone(), 1e-5, FloatDType::F32, GradientSum::default());
    let (y16, r16) = B::rms_norm(x16.clone(), weight.clone(), 1e-5, FloatDType::BF16, GradientSum::default());
    assert_eq!(y16.dtype(), burn::tensor::DType::BF16);
    close(&y16, &y);
    let want = B::rms_norm_backward(x.clone(), weight.clone(), r, grad.clone(), true);
    let got = B::rms_norm_backward(x16.clone(), weight.clone(), r16, grad16.clone(), true);
    close(&got.0, &want.0);
    close(&got.1.unwrap(), &want.1.unwrap());
    let y = B::rows_layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5, FloatDType::F32);
    close(&B::rows_layer_norm(x.clone(), weight.clone(), bias, 1e-5, FloatDType::BF16), &y);
    let want = B::rows_layer_norm_backward(x.clone(), weight.clone(), grad.clone(), 1e-5);
    close(&B::rows_layer_norm_backward(x.clone(), weight, grad16.clone(), 1e-5).0, &want.0);

    close(&B::swiglu(x16.clone(), up16.clone()), &B::swiglu(x.clone(), up.clone()));
    let want = B::swiglu_backward(x.clone(), up.clone(), grad.clone());
    let got = B::swiglu_backward(x16.clone(), up16.clone(), grad16.clone());
    close(&got.0, &want.0);
    close(&got.1, &want.1);
    close(&B::rows_gelu(x16.clone(), Gelu::Tanh), &B::rows_gelu(x.clone(), Gelu::Tanh));
    close(
        &B::residual(x.clone(), up16.clone(), GradientSum::default()),
        &B::residual(x.clone(), up.clone(), GradientSum::default()),
    );

    let tables = [(); 3].map(|()| both([50, 6]));
    let [c, s, m] = tables.each_ref().map(|(table, _)| table.clone());
    let want = B::rotary(x.clone(), c, s, m, 12);
    let [c, s, m] = tables.each_ref().map(|(_, table)| table.clone());
    close(&B::rotary(x16.clone(), c, s, m, 12), &want);

    let (head, head16) = both([70, 24]);
    close(&B::logits(x16.clone(), head16.clone()), &B::logits(x.clone(), head.clone()));
    let targets: Indices = (0..50).collect();
    let (logps, lse) = B::token_logps(x.clone(), head.clone(), targets.clone());
    let (logps16, lse16) = B::token_logps(x16.clone(), head16.clone(), targets.clone());
    assert_same::<B>(&logps16, &logps, 1e-5);
    let grads = numbers::<B, 1>([50]);
    let want = B::token_logps_backward(x, head, lse, grads.clone(), targets.clone(), true);
    let got = B::token_logps_backward(x16, head16, lse16, grads, targets, true);
    close(&got.0, &want.0);
    close(&got.1.unwrap(), &want.1.unwrap());

    let (spans, rows) = spans(4, 2, 8, Some(9));
    let ((q, q16), (k, k16), (v, v16), (g, g16)) =
        (both([rows, 32]), both([rows, 16]), both([rows, 16]), both([rows, 32]));
    let (out, lse) = B::span_attention(q.clone(), k.clone(), v.clone(), spans.clone());
    let (out16, lse16) = B::span_attention(q16.clone(), k16.clone(), v16.clone(), spans.clone());
    close(&out16, &out);
    let want = B::span_attention_backward(q, k, v, out, lse, g, spans.clone());
    let got = B::span_attention_backward(q16, k16, v16, out16, lse16, g16, spans);
    close(&got.0, &want.0);
    close(&got.1, &want.1);
    close(&got.2, &want.2);
}
