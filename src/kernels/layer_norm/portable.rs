//! Layer norm in backend operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::FloatDType;

pub(in crate::kernels) fn portable<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    eps: f64,
    out: FloatDType,
) -> FloatTensor<B> {
    let d = x.shape()[1];
    let [normed, _] = normalize::<B>(x, eps);
    let scaled = B::float_mul(normed, B::float_reshape(weight, [1, d].into()));
    B::float_cast(B::float_add(scaled, B::float_reshape(bias, [1, d].into())), out)
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (d, dtype) = (x.shape()[1], x.dtype());
    let [normed, r] = normalize::<B>(x, eps);
    let grad = B::float_cast(grad, FloatDType::F32);
    let grad_weight = B::float_sum_dim(B::float_mul(grad.clone(), normed.clone()), 0);
    let grad_bias = B::float_sum_dim(grad.clone(), 0);
    let g = B::float_mul(grad, B::float_reshape(weight, [1, d].into()));
    let along = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let centred = B::float_sub(g.clone(), B::float_mean_dim(g, 1));
    let grad_x = B::float_mul(B::float_sub(centred, B::float_mul(normed, along)), r);
    (
        B::float_cast(grad_x, dtype.into()),
        B::float_reshape(grad_weight, [d].into()),
        B::float_reshape(grad_bias, [d].into()),
    )
}

/// `(x - mean) r`, and `r = 1 / sqrt(variance + eps)` of every row, `[rows, 1]`.
fn normalize<B: Backend>(x: FloatTensor<B>, eps: f64) -> [FloatTensor<B>; 2] {
    let x = B::float_cast(x, FloatDType::F32);
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())));
    [B::float_mul(centred, r.clone()), r]
}
