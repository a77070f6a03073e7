//! The sum of squares on flex.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::FloatDType;
use rayon::prelude::*;

use super::Norm;
use crate::kernels::flex::memory::{tensor, values};
use crate::kernels::flex::simd::{dot, vectorized};

/// Elements per task. Their sums are added in order, so the result does not depend on the number of threads.
const CHUNK: usize = 16 * 1024;

impl Norm for Flex {
    fn squared_norm(x: FlexTensor) -> FlexTensor {
        let x = Self::float_cast(x, FloatDType::F32).to_contiguous();
        let sums: Vec<f32> = values(&x)
            .par_chunks(CHUNK)
            .map(|x| {
                vectorized(
                    #[inline(always)]
                    || dot(x, x),
                )
            })
            .collect();
        tensor(vec![sums.into_iter().map(f64::from).sum::<f64>() as f32], [1])
    }
}
