//! Root-mean-square norm in backend operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

pub(in crate::kernels) fn portable<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let d = x.shape()[1];
    let scaled = B::float_mul(x.clone(), inverse_rms::<B>(x, eps));
    B::float_mul(scaled, B::float_reshape(weight, [1, d].into()))
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let d = x.shape()[1];
    let r = inverse_rms::<B>(x.clone(), eps);
    let normed = B::float_mul(x, r.clone());
    let grad_weight = B::float_sum_dim(B::float_mul(grad.clone(), normed.clone()), 0);
    let g = B::float_mul(grad, B::float_reshape(weight, [1, d].into()));
    let mean = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let grad_x = B::float_mul(B::float_sub(g, B::float_mul(normed, mean)), r);
    (grad_x, B::float_reshape(grad_weight, [d].into()))
}

/// `1 / sqrt(mean(x^2) + eps)` of every row, `[rows, 1]`.
fn inverse_rms<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}
