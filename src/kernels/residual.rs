//! The residual stream: `x + y`, where the stream x is f32 and what a layer adds may be narrower.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::input::{GradientSum, Input};

/// `x + y` in the type of x, both `[rows, width]`.
pub fn residual(x: impl Into<Input>, y: Tensor<2>) -> Tensor<2> {
    let (x, sum) = x.into().parts();
    Tensor::from_dispatch(<Dispatch as Residual>::residual(x.into_dispatch(), y.into_dispatch(), sum))
}

/// The kernel; see [`residual`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Residual: Backend {
    /// `x + y` in the type of x. Autodiff adds the gradient of x to `sum`.
    fn residual(x: FloatTensor<Self>, y: FloatTensor<Self>, sum: GradientSum) -> FloatTensor<Self> {
        let (dtype, _) = (x.dtype(), sum);
        Self::float_add(x, Self::float_cast(y, dtype.into()))
    }
}

impl Residual for Flex {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Residual for burn::backend::Cube {}

#[cfg(feature = "tch")]
impl Residual for burn::backend::LibTorch {
    /// One operation, which widens y as it reads it.
    fn residual(x: FloatTensor<Self>, y: FloatTensor<Self>, _: GradientSum) -> FloatTensor<Self> {
        use super::libtorch::{fresh, owned};
        match x.can_mut() {
            true => fresh(owned(x).g_add_(&y.tensor)),
            false => fresh(&x.tensor + &y.tensor),
        }
    }
}

impl<B: Residual, C: CheckpointStrategy> Residual for Autodiff<B, C> {
    fn residual(x: FloatTensor<Self>, y: FloatTensor<Self>, sum: GradientSum) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Residual> Backward<B, 2> for Node {
            type State = (DType, GradientSum);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x, y], (dtype, sum)) = (ops.parents, ops.state);
                if let Some(node) = y {
                    grads.register::<B>(node.id, B::float_cast(grad.clone(), dtype.into()));
                }
                if let Some(node) = x {
                    sum.add::<B>(grads, node.id, |above| match above {
                        Some(above) => B::float_add(above, grad),
                        None => grad,
                    });
                }
            }
        }
        let nodes = [x.node(), y.node()];
        let (x, y) = (x.into_primitive(), y.into_primitive());
        let dtype = y.dtype();
        let out = B::residual(x, y, sum.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((dtype, sum), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
