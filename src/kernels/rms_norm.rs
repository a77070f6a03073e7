//! Root-mean-square norm: `y = x / sqrt(mean(x^2) + eps) * weight` (arXiv 1910.07467), one row at a time.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::simd::{dot, vectorized};
use super::{ROWS, tensor, values};

/// Norm of every row: x `[rows, d]`, weight `[d]`.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as RmsNorm>::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// The kernel; see [`rms_norm`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait RmsNorm: Backend {
    /// The norm of every row.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        portable::<Self>(x, weight, eps)
    }

    /// Gradients with respect to x and weight.
    ///
    /// With `r = 1 / rms(x)` and `g = grad * weight`: `dx = r g - x r^3 mean(g x)`, `dweight = sum over rows of
    /// grad x r`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable_backward::<Self>(x, weight, grad, eps)
    }
}

pub(super) fn portable<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let d = x.shape()[1];
    let scaled = B::float_mul(x.clone(), inverse_rms::<B>(x, eps));
    B::float_mul(scaled, B::float_reshape(weight, [1, d].into()))
}

pub(super) fn portable_backward<B: Backend>(
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

#[cfg(feature = "tch")]
impl RmsNorm for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl RmsNorm for burn::backend::Cube {}

/// Rows of a strip in the backward pass.
const STRIP: usize = 128;

impl RmsNorm for Flex {
    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [rows, d] = x.shape().dims();
        let weight = values(&weight);
        let mut out = vec![0f32; rows * d];
        out.par_chunks_mut(d * ROWS).zip(values(&x).par_chunks(d * ROWS)).for_each(|(out, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let r = scale(x, eps);
                        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * r * w;
                        }
                    }
                },
            );
        });
        tensor(out, [rows, d])
    }

    fn rms_norm_backward(x: FlexTensor, weight: FlexTensor, grad: FlexTensor, eps: f64) -> (FlexTensor, FlexTensor) {
        let (x, weight, grad) = (x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
        let [rows, d] = x.shape().dims();
        let weight = values(&weight);
        let mut grad_x = vec![0f32; rows * d];
        // Strips of a fixed size, summed in order: the result does not depend on the number of threads.
        let inputs = values(&x).par_chunks(d * STRIP).zip(values(&grad).par_chunks(d * STRIP));
        let strips: Vec<Vec<f32>> = grad_x
            .par_chunks_mut(d * STRIP)
            .zip(inputs)
            .map(|(grad_x, (x, grad))| {
                let mut grad_weight = vec![0f32; d];
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = grad_x.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(grad.chunks_exact(d));
                        for ((grad_x, x), grad) in rows {
                            let r = scale(x, eps);
                            for i in 0..d {
                                grad_x[i] = grad[i] * weight[i];
                                grad_weight[i] += grad[i] * x[i] * r;
                            }
                            let shared = dot(grad_x, x) * r * r / d as f32;
                            for (grad_x, x) in grad_x.iter_mut().zip(x) {
                                *grad_x = (*grad_x - x * shared) * r;
                            }
                        }
                    },
                );
                grad_weight
            })
            .collect();
        let grad_weight = super::sum(strips);
        (tensor(grad_x, [rows, d]), tensor(grad_weight, [d]))
    }
}

#[inline(always)]
fn scale(x: &[f32], eps: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt()
}

impl<B: RmsNorm, C: CheckpointStrategy> RmsNorm for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: RmsNorm> Backward<B, 2> for Node {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight, eps) = ops.state;
                let (grad_x, grad_weight) = B::rms_norm_backward(x, weight, grad, eps);
                for (parent, grad) in ops.parents.into_iter().zip([grad_x, grad_weight]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let out = B::rms_norm(x.clone(), weight.clone(), eps);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight, eps), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
