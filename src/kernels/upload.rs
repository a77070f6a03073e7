//! Numbers of the host on a device. A GPU copies them from pinned memory, and the host does not wait for it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};

/// `values` on `device` as a tensor of `shape`.
pub fn upload<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    let place = Tensor::<1>::empty([0], &device.clone().without_autodiff());
    let flat = Tensor::<1>::from_dispatch(<Dispatch as Upload>::upload(place.into_dispatch(), values));
    let flat = if device.is_autodiff() { flat.autodiff() } else { flat };
    flat.reshape(shape)
}

/// The kernel; see [`upload`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait Upload: Backend {
    /// `values`, flat, on the device of `place`.
    fn upload(place: FloatTensor<Self>, values: Vec<f32>) -> FloatTensor<Self> {
        let shape = [values.len()];
        Self::float_from_data(TensorData::new(values, shape), &place.device())
    }
}

impl Upload for Flex {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Upload for burn::backend::Cube {}

#[cfg(feature = "tch")]
impl Upload for burn::backend::LibTorch {
    fn upload(place: FloatTensor<Self>, values: Vec<f32>) -> FloatTensor<Self> {
        use super::libtorch::{fresh, uploaded};
        fresh(uploaded(tch::Tensor::from_slice(&values), place.tensor.device()))
    }
}
