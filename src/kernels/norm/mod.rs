//! The sum of squares of a tensor, for the norm of a gradient, in one pass and without a tensor of squares.

mod flex;
#[cfg(feature = "tch")]
mod libtorch;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{FloatDType, Tensor};

/// The sum of squares of `x` in f32, `[1]`.
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

pub(in crate::kernels) fn portable<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = B::float_cast(x, FloatDType::F32);
    B::float_sum(B::float_mul(x.clone(), x))
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Norm for burn::backend::Cube {}
