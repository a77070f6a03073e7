//! Layer norm on flex.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::FloatDType;
use rayon::prelude::*;

use super::LayerNorm;
use crate::kernels::flex::memory::{ROWS, sum, tensor, values};
use crate::kernels::flex::simd::{dot, total, vectorized};

/// Rows per strip of the backward pass.
const STRIP: usize = 128;

impl LayerNorm for Flex {
    fn rows_layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f64, _: FloatDType) -> FlexTensor {
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
        (tensor(grad_x, [rows, d]), tensor(sum(of_weight), [d]), tensor(sum(of_bias), [d]))
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
