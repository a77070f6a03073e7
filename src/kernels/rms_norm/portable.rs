//! Root-mean-square norm in backend operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::FloatDType;

pub(in crate::kernels) fn portable<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f64,
    out: FloatDType,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let d = x.shape()[1];
    let x = B::float_cast(x, FloatDType::F32);
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())));
    let y = B::float_mul(B::float_mul(x, r.clone()), B::float_reshape(weight, [1, d].into()));
    (B::float_cast(y, out), r)
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    r: FloatTensor<B>,
    grad: FloatTensor<B>,
    weight_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let (d, dtype) = (x.shape()[1], x.dtype());
    let [x, grad] = [x, grad].map(|tensor| B::float_cast(tensor, FloatDType::F32));
    let normed = B::float_mul(x, r.clone());
    let grad_weight = weight_trains.then(|| {
        let sum = B::float_sum_dim(B::float_mul(grad.clone(), normed.clone()), 0);
        B::float_reshape(sum, [d].into())
    });
    let g = B::float_mul(grad, B::float_reshape(weight, [1, d].into()));
    let mean = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let grad_x = B::float_mul(B::float_sub(g, B::float_mul(normed, mean)), r);
    (B::float_cast(grad_x, dtype.into()), grad_weight)
}
