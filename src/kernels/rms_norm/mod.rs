//! Root-mean-square norm: `y = x / sqrt(mean(x^2) + eps) * weight` (arXiv 1910.07467), one row at a time.

#[cfg(feature = "tch")]
mod cuda;
mod flex;
#[cfg(feature = "tch")]
mod libtorch;
mod portable;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, backend_extension};
use burn::tensor::{FloatDType, Tensor};

use super::input::{GradientSum, Input};
pub(super) use portable::{portable, portable_backward};

/// Norm of every row: x `[rows, d]`, weight `[d]` in f32. The norm is computed in f32 and rounded to `out`; flex has f32 alone.
pub fn rms_norm(x: impl Into<Input>, weight: Tensor<1>, eps: f64, out: FloatDType) -> Tensor<2> {
    let (x, sum) = x.into().parts();
    let (y, _) = <Dispatch as RmsNorm>::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps, out, sum);
    Tensor::from_dispatch(y)
}

/// The kernel; see [`rms_norm`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait RmsNorm: Backend {
    /// The norm of every row, and the inverse root mean squares `r` in f32, `[rows, 1]`. Autodiff adds the gradient of x to `sum`.
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        out: FloatDType,
        sum: GradientSum,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let _ = sum;
        portable::<Self>(x, weight, eps, out)
    }

    /// Gradients with respect to x and, if `weight_trains`, weight.
    ///
    /// With `g = grad * weight`: `dx = r g - x r^3 mean(g x)`, `dweight = sum over rows of grad x r`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        r: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        weight_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        portable_backward::<Self>(x, weight, r, grad, weight_trains)
    }

    /// As [`Self::rms_norm_backward`], with the gradient with respect to x added to `sum`, which has its type.
    fn rms_norm_backward_onto(
        sum: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        r: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        weight_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let (grad_x, grad_weight) = Self::rms_norm_backward(x, weight, r, grad, weight_trains);
        (Self::float_add(grad_x, sum), grad_weight)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl RmsNorm for burn::backend::Cube {}

impl<B: RmsNorm, C: CheckpointStrategy> RmsNorm for Autodiff<B, C> {
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
        out: FloatDType,
        sum: GradientSum,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Node;
        impl<B: RmsNorm> Backward<B, 2> for Node {
            type State = ([FloatTensor<B>; 3], GradientSum);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (([x, weight, r], sum), [of_x, of_weight]) = (ops.state, ops.parents);
                let mut grad_weight = None;
                let back = |above| {
                    let trains = of_weight.is_some();
                    let (grad_x, found) = match above {
                        Some(above) => B::rms_norm_backward_onto(above, x, weight, r, grad, trains),
                        None => B::rms_norm_backward(x, weight, r, grad, trains),
                    };
                    grad_weight = found;
                    grad_x
                };
                match of_x {
                    Some(node) => sum.add::<B>(grads, node.id, back),
                    None => drop(back(None)),
                }
                if let (Some(node), Some(grad)) = (of_weight, grad_weight) {
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let (y, r) = B::rms_norm(x.clone(), weight.clone(), eps, out, sum.clone());
        let untracked = <Self as AutodiffBackend>::from_inner(r.clone());
        let y = match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, weight, r], sum), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, untracked)
    }
}
