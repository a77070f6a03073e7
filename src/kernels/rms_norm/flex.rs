//! Root-mean-square norm on flex.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::FloatDType;
use rayon::prelude::*;

use super::RmsNorm;
use crate::kernels::flex::memory::{ROWS, sum, tensor, values};
use crate::kernels::flex::simd::{dot, vectorized};
use crate::kernels::input::GradientSum;

/// Rows per strip of the backward pass.
const STRIP: usize = 128;

impl RmsNorm for Flex {
    fn rms_norm(
        x: FlexTensor,
        weight: FlexTensor,
        eps: f64,
        _: FloatDType,
        _: GradientSum,
    ) -> (FlexTensor, FlexTensor) {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [rows, d] = x.shape().dims();
        let weight = values(&weight);
        let (mut out, mut inverse) = (vec![0f32; rows * d], vec![0f32; rows]);
        let outputs = out.par_chunks_mut(d * ROWS).zip(inverse.par_chunks_mut(ROWS));
        outputs.zip(values(&x).par_chunks(d * ROWS)).for_each(|((out, inverse), x)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, x), inverse) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse.iter_mut()) {
                        let r = scale(x, eps);
                        *inverse = r;
                        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * r * w;
                        }
                    }
                },
            );
        });
        (tensor(out, [rows, d]), tensor(inverse, [rows, 1]))
    }

    fn rms_norm_backward(
        x: FlexTensor,
        weight: FlexTensor,
        r: FlexTensor,
        grad: FlexTensor,
        weight_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [x, weight, r, grad] = [x, weight, r, grad].map(|tensor| tensor.to_contiguous());
        let [rows, d] = x.shape().dims();
        let weight = values(&weight);
        let mut grad_x = vec![0f32; rows * d];
        // Strips of a fixed size, summed in order: the result does not depend on the number of threads.
        let inputs = values(&x).par_chunks(d * STRIP).zip(values(&grad).par_chunks(d * STRIP));
        let inputs = inputs.zip(values(&r).par_chunks(STRIP));
        let strips: Vec<Vec<f32>> = grad_x
            .par_chunks_mut(d * STRIP)
            .zip(inputs)
            .map(|(grad_x, ((x, grad), r))| {
                let mut grad_weight = vec![0f32; d];
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = grad_x.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(grad.chunks_exact(d));
                        for (((grad_x, x), grad), &r) in rows.zip(r) {
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
        let grad_weight = sum(strips);
        (tensor(grad_x, [rows, d]), weight_trains.then(|| tensor(grad_weight, [d])))
    }
}

#[inline(always)]
fn scale(x: &[f32], eps: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt()
}
