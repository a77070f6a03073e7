//! AdamW on flex, in place.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{AdamW, Step};
use crate::kernels::flex::memory::{values, whole};
use crate::kernels::flex::simd::vectorized;

/// Elements per task.
const CHUNK: usize = 16 * 1024;

impl AdamW for Flex {
    fn adamw(
        parameter: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        gradient: FlexTensor,
        step: Step,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let gradient = gradient.to_contiguous();
        let [mut parameter, mut first, mut second] = [parameter, first, second].map(whole);
        let [decay, beta1, beta2, root, eps, rate, scale] = step.factors();
        let [parameters, firsts, seconds] =
            [&mut parameter, &mut first, &mut second].map(|tensor| tensor.storage_mut::<f32>().par_chunks_mut(CHUNK));
        let chunks = parameters.zip(firsts).zip(seconds).zip(values(&gradient).par_chunks(CHUNK));
        chunks.for_each(|(((parameter, first), second), gradient)| {
            vectorized(
                #[inline(always)]
                || {
                    for i in 0..gradient.len() {
                        let g = gradient[i] * scale;
                        first[i] = first[i] * beta1 + g * (1.0 - beta1);
                        second[i] = second[i] * beta2 + g * g * (1.0 - beta2);
                        let denominator = second[i].sqrt() * root + eps;
                        parameter[i] = parameter[i] * decay - first[i] / denominator * rate;
                    }
                },
            );
        });
        (parameter, first, second)
    }
}
