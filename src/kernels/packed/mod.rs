//! Frozen weights, packed once for products with the widest vectors of the processor, and a linear layer on them.
//!
//! [`Precision::F32`] is exact. With [`Precision::Bf16`] activations are rounded to bf16, with [`Precision::Bf16x2`] they are the sum
//! of two bf16 numbers, with a relative error of 2^-16. Sums are f32. Packing is faster with AVX-512, for bf16 with AVX512-BF16
//! ([`Packed::is_fast`]).

mod flex;
mod panels;
mod shelf;

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use half::bf16;

use super::flex::tile::Dtype;
use super::precision::Precision;
pub(super) use panels::{Activations, Panels};

/// A frozen weight `[outputs, inputs]`.
#[derive(Debug)]
pub struct Packed {
    pub(super) storage: Storage,
}

/// The panels of a weight, by the type that they are stored as.
#[derive(Debug)]
pub(super) enum Storage {
    F32(Panels<f32>),
    Bf16(Panels<bf16>),
}

impl Packed {
    /// Whether this processor has instructions for the products of `precision`; without them, plain weights are as fast.
    pub fn is_fast(precision: Precision) -> bool {
        match precision {
            Precision::F32 | Precision::Tf32 => f32::is_fast(),
            Precision::Bf16 | Precision::Bf16x2 => bf16::is_fast(),
        }
    }

    /// Packs `[outputs, inputs]`; `value` gives output `o` and input `i`.
    pub fn new(shape: [usize; 2], precision: Precision, value: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let storage = match precision {
            Precision::F32 | Precision::Tf32 => Storage::F32(Panels::new(shape, 1, value)),
            Precision::Bf16 => Storage::Bf16(Panels::new(shape, 1, value)),
            Precision::Bf16x2 => Storage::Bf16(Panels::new(shape, 2, value)),
        };
        Self { storage }
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        match &self.storage {
            Storage::F32(panels) => panels.shape(),
            Storage::Bf16(panels) => panels.shape(),
        }
    }

    /// The rows `outputs` in f32, concatenated; for embedding tables.
    pub fn rows(&self, outputs: impl Iterator<Item = usize>) -> Vec<f32> {
        match &self.storage {
            Storage::F32(panels) => outputs.flat_map(|output| panels.row(output)).collect(),
            Storage::Bf16(panels) => outputs.flat_map(|output| panels.row(output)).collect(),
        }
    }

    /// The weight in f32, `[outputs, inputs]`.
    pub(super) fn unpack<B: Backend>(&self, device: &burn::backend::tensor::Device<B>) -> FloatTensor<B> {
        let values = self.rows(0..self.shape()[0]);
        B::float_from_data(TensorData::new(values, self.shape()), device)
    }
}

/// `x W^T` for a packed weight: x `[rows, in]`, result `[rows, out]`.
pub fn packed_linear(x: Tensor<2>, weight: Arc<Packed>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PackedLinear>::packed_linear(x.into_dispatch(), weight))
}

/// The kernel; see [`packed_linear`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait PackedLinear: Backend {
    /// `x W^T`.
    fn packed_linear(x: FloatTensor<Self>, weight: Arc<Packed>) -> FloatTensor<Self> {
        let device = x.device();
        Self::float_matmul(x, Self::float_transpose(weight.unpack::<Self>(&device)))
    }
}

#[cfg(feature = "tch")]
impl PackedLinear for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl PackedLinear for burn::backend::Cube {}

impl<B: PackedLinear, C: CheckpointStrategy> PackedLinear for Autodiff<B, C> {
    fn packed_linear(x: FloatTensor<Self>, weight: Arc<Packed>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: PackedLinear> Backward<B, 1> for Node {
            type State = Arc<Packed>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let weight = ops.state.unpack::<B>(&grad.device());
                    grads.register::<B>(node.id, B::float_matmul(grad, weight));
                }
            }
        }
        let nodes = [x.node()];
        let out = B::packed_linear(x.into_primitive(), weight.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(weight, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{Tolerance, assert_close};
    use crate::kernels::token_logps::{packed_token_logps, token_logps};
    use burn::tensor::{Device, Distribution};

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    /// A weight that bf16 represents exactly, plain and packed.
    fn weight(shape: [usize; 2], precision: Precision) -> (Tensor<2>, Arc<Packed>) {
        let values: Vec<f32> = numbers(random(shape)).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        let packed = Packed::new(shape, precision, |output, input| values[output * shape[1] + input]);
        (Tensor::from_data(TensorData::new(values, shape), &Device::flex()), Arc::new(packed))
    }

    #[track_caller]
    fn assert_same<const D: usize>(got: Tensor<D>, want: Tensor<D>, [rows, inputs, outputs]: [usize; 3]) {
        let context = format_args!("{rows} rows, {outputs} x {inputs}");
        assert_close(&numbers(got), &numbers(want), Tolerance::Relative(1e-4), context);
    }

    #[test]
    fn a_packed_product_is_the_product() {
        for (rows, inputs, outputs) in [(1, 1, 1), (7, 33, 50), (130, 64, 96), (65, 2, 47)] {
            let x = random([rows, inputs]);
            for precision in [Precision::F32, Precision::Bf16x2] {
                let (plain, packed) = weight([outputs, inputs], precision);
                let want = x.clone().matmul(plain.transpose());
                assert_same(packed_linear(x.clone(), packed), want, [rows, inputs, outputs]);
            }

            let rounded = numbers(x.clone()).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
            let rounded = Tensor::<2>::from_data(TensorData::new(rounded, [rows, inputs]), &Device::flex());
            let (plain, packed) = weight([outputs, inputs], Precision::Bf16);
            let want = rounded.matmul(plain.transpose());
            assert_same(packed_linear(x, packed), want, [rows, inputs, outputs]);
        }
    }

    #[test]
    fn a_packed_head_gives_the_log_probabilities() {
        for (rows, vocabulary, d) in [(5, 40, 8), (300, 1100, 17), (1, 1, 4)] {
            let hidden = random([rows, d]);
            for precision in [Precision::F32, Precision::Bf16x2] {
                let (plain, packed) = weight([vocabulary, d], precision);
                let targets: crate::kernels::indices::Indices =
                    (0..rows).map(|row| (row * 7919 % vocabulary) as i32).collect();
                let got = packed_token_logps(hidden.clone(), packed, targets.clone());
                let want = token_logps(hidden.clone(), plain, targets);
                assert_same(got, want, [rows, d, vocabulary]);
            }
        }
    }

    #[test]
    fn gradients_flow_through_a_packed_weight() {
        let (plain, packed) = weight([50, 33], Precision::Bf16x2);
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data(random([7, 33]).into_data(), &device).require_grad();
        let out = packed_linear(x.clone(), packed);
        let grads = random([7, 50]);
        let gradients = (out * Tensor::from_data(grads.clone().into_data(), &device)).sum().backward();
        let grad = x.grad(&gradients).unwrap();
        assert_same(grad, grads.matmul(plain), [7, 33, 50]);
    }
}
