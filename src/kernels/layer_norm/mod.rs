//! Layer norm: `y = (x - mean) / sqrt(variance + eps) * weight + bias` (arXiv 1607.06450), one row at a time.

mod flex;
#[cfg(feature = "tch")]
mod libtorch;
mod portable;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{FloatDType, Tensor};

pub(super) use portable::{portable, portable_backward};

/// Norm of every row: x `[rows, d]`, weight and bias `[d]` in f32. The norm is computed in f32 and rounded to `out`; flex has f32
/// alone.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64, out: FloatDType) -> Tensor<2> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LayerNorm>::rows_layer_norm(x, weight, bias, eps, out))
}

/// The kernel; see [`layer_norm`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait LayerNorm: Backend {
    /// The norm of every row.
    fn rows_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
        out: FloatDType,
    ) -> FloatTensor<Self> {
        portable::<Self>(x, weight, bias, eps, out)
    }

    /// Gradients with respect to x, weight and bias.
    ///
    /// With `n = (x - mean) r`, `r = 1 / sqrt(variance + eps)` and `g = grad * weight`:
    /// `dx = r (g - mean(g) - n mean(g n))`, `dweight = sum over rows of grad n`, `dbias = sum over rows of grad`.
    fn rows_layer_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable_backward::<Self>(x, weight, grad, eps)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl LayerNorm for burn::backend::Cube {}

impl<B: LayerNorm, C: CheckpointStrategy> LayerNorm for Autodiff<B, C> {
    fn rows_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
        out: FloatDType,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: LayerNorm> Backward<B, 3> for Node {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight, eps) = ops.state;
                let (grad_x, grad_weight, grad_bias) = B::rows_layer_norm_backward(x, weight, grad, eps);
                for (parent, grad) in ops.parents.into_iter().zip([grad_x, grad_weight, grad_bias]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        let y = B::rows_layer_norm(x.clone(), weight.clone(), bias, eps, out);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
