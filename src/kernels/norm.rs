//! The sum of squares of a tensor, for the norm of a gradient, in one pass and without a tensor of squares.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::memory::{tensor, values};
use super::flex::simd::{dot, vectorized};

/// The sum of squares of `x`, `[1]`.
pub fn squared_norm(x: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Norm>::squared_norm(x.into_dispatch()))
}

/// The kernel; see [`squared_norm`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait Norm: Backend {
    /// The sum of squares.
    fn squared_norm(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::<Self>(x)
    }
}

pub(super) fn portable<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_sum(B::float_mul(x.clone(), x))
}

#[cfg(feature = "tch")]
impl Norm for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Norm for burn::backend::Cube {}

/// Elements per task. Their sums are added in order, so the result does not depend on the number of threads.
const CHUNK: usize = 16 * 1024;

impl Norm for Flex {
    fn squared_norm(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
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
