//! Layer norm: `y = (x - mean) / sqrt(variance + eps) * weight + bias` (arXiv 1607.06450), one row at a time.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::simd::{dot, total, vectorized};
use super::{ROWS, tensor, values};

/// Norm of every row: x `[rows, d]`, weight and bias `[d]`.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<2> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LayerNorm>::rows_layer_norm(x, weight, bias, eps))
}

/// The kernel; see [`layer_norm`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait LayerNorm: Backend {
    /// The norm of every row.
    fn rows_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        portable::<Self>(x, weight, bias, eps)
    }

    /// Gradients with respect to x, weight and bias.
    ///
    /// With `n = (x - mean) r`, `r = 1 / sqrt(variance + eps)` and `g = grad * weight`:
    /// `dx = r (g - mean(g) - n mean(g n))`, `dweight = sum over rows of grad n`, `dbias = sum over rows of grad`.
    fn rows_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable_backward::<Self>(x, weight, grad, eps)
    }
}

pub(super) fn portable<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    eps: f64,
) -> FloatTensor<B> {
    let d = x.shape()[1];
    let [normed, _] = normalize::<B>(x, eps);
    let scaled = B::float_mul(normed, B::float_reshape(weight, [1, d].into()));
    B::float_add(scaled, B::float_reshape(bias, [1, d].into()))
}

pub(super) fn portable_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let d = x.shape()[1];
    let [normed, r] = normalize::<B>(x, eps);
    let grad_weight = B::float_sum_dim(B::float_mul(grad.clone(), normed.clone()), 0);
    let grad_bias = B::float_sum_dim(grad.clone(), 0);
    let g = B::float_mul(grad, B::float_reshape(weight, [1, d].into()));
    let along = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let centred = B::float_sub(g.clone(), B::float_mean_dim(g, 1));
    let grad_x = B::float_mul(B::float_sub(centred, B::float_mul(normed, along)), r);
    (grad_x, B::float_reshape(grad_weight, [d].into()), B::float_reshape(grad_bias, [d].into()))
}

/// `(x - mean) r`, and `r = 1 / sqrt(variance + eps)` of every row, `[rows, 1]`.
fn normalize<B: Backend>(x: FloatTensor<B>, eps: f64) -> [FloatTensor<B>; 2] {
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())));
    [B::float_mul(centred, r.clone()), r]
}

#[cfg(feature = "tch")]
impl LayerNorm for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl LayerNorm for burn::backend::Cube {}

/// Rows of a strip in the backward pass.
const STRIP: usize = 128;

impl LayerNorm for Flex {
    fn rows_layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f64) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
        let [rows, d] = x.shape().dims();
        let (weight, bias) = (values(&weight), values(&bias));
        let mut out = vec![0f32; rows * d];
        out.par_chunks_mut(d * ROWS).zip(values(&x).par_chunks(d * ROWS)).for_each(|(out, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        normalize_row(x, out, eps);
                        for ((out, w), b) in out.iter_mut().zip(weight).zip(bias) {
                            *out = *out * w + b;
                        }
                    }
                },
            );
        });
        tensor(out, [rows, d])
    }

    fn rows_layer_norm_backward(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        eps: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [x, weight, grad] = [x, weight, grad].map(|tensor| tensor.to_contiguous());
        let [rows, d] = x.shape().dims();
        let weight = values(&weight);
        let mut grad_x = vec![0f32; rows * d];
        // Strips of a fixed size, summed in order: the result does not depend on the number of threads.
        let inputs = values(&x).par_chunks(d * STRIP).zip(values(&grad).par_chunks(d * STRIP));
        let strips = grad_x.par_chunks_mut(d * STRIP).zip(inputs).map_init(
            || vec![0f32; d],
            |normed, (grad_x, (x, grad))| {
                let (mut grad_weight, mut grad_bias) = (vec![0f32; d], vec![0f32; d]);
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = grad_x.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(grad.chunks_exact(d));
                        for ((grad_x, x), grad) in rows {
                            let r = normalize_row(x, normed, eps);
                            for i in 0..d {
                                grad_x[i] = grad[i] * weight[i];
                                grad_weight[i] += grad[i] * normed[i];
                                grad_bias[i] += grad[i];
                            }
                            let mean = total(grad_x) / d as f32;
                            let along = dot(grad_x, normed) / d as f32;
                            for (grad_x, normed) in grad_x.iter_mut().zip(normed.iter()) {
                                *grad_x = (*grad_x - mean - normed * along) * r;
                            }
                        }
                    },
                );
                (grad_weight, grad_bias)
            },
        );
        let (of_weight, of_bias): (Vec<_>, Vec<_>) = strips.collect::<Vec<_>>().into_iter().unzip();
        (tensor(grad_x, [rows, d]), tensor(super::sum(of_weight), [d]), tensor(super::sum(of_bias), [d]))
    }
}

/// Writes `(x - mean) r` to `out` and returns `r`.
#[inline(always)]
fn normalize_row(x: &[f32], out: &mut [f32], eps: f64) -> f32 {
    let d = x.len() as f32;
    let mean = total(x) / d;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    let r = 1.0 / (dot(out, out) / d + eps as f32).sqrt();
    out.iter_mut().for_each(|out| *out *= r);
    r
}

impl<B: LayerNorm, C: CheckpointStrategy> LayerNorm for Autodiff<B, C> {
    fn rows_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: LayerNorm> Backward<B, 3> for Node {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight, eps) = ops.state;
                let (grad_x, grad_weight, grad_bias) = B::rows_layer_norm_backward(x, weight, grad, eps);
                for (parent, grad) in ops.parents.into_iter().zip([grad_x, grad_weight, grad_bias]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        let out = B::rows_layer_norm(x.clone(), weight.clone(), bias, eps);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight, eps), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
