//! Root-mean-square norm: `y = x / sqrt(mean(x^2) + eps) * weight` (arXiv 1910.07467), one row at a time.

mod flex;
mod portable;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

pub(super) use portable::{portable, portable_backward};

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

#[cfg(feature = "tch")]
impl RmsNorm for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl RmsNorm for burn::backend::Cube {}

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
