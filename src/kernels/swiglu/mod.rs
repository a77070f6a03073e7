//! SwiGLU: `y = silu(gate) * up`, the gate of Llama's feed-forward network (arXiv 2002.05202).

#[cfg(feature = "tch")]
mod cuda;
mod flex;
#[cfg(feature = "tch")]
mod libtorch;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// `silu(gate) * up` for tensors of equal shape.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SwiGlu>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The kernel; see [`swiglu`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait SwiGlu: Backend {
    /// `silu(gate) * up`.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::<Self>(gate, up)
    }

    /// Gradients with respect to gate and up, given that of the output.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable_backward::<Self>(gate, up, grad)
    }
}

pub(in crate::kernels) fn portable<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let sigmoid = B::sigmoid(gate.clone());
    B::float_mul(B::float_mul(gate, sigmoid), up)
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate, sigmoid.clone());
    let grad_up = B::float_mul(grad.clone(), silu.clone());
    // silu'(g) = s + silu (1 - s)
    let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1f32.into());
    let derivative = B::float_add(sigmoid, B::float_mul(silu, rest));
    (B::float_mul(B::float_mul(grad, up), derivative), grad_up)
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl SwiGlu for burn::backend::Cube {}

impl<B: SwiGlu, C: CheckpointStrategy> SwiGlu for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: SwiGlu> Backward<B, 2> for Node {
            type State = (FloatTensor<B>, FloatTensor<B>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (gate, up) = ops.state;
                let (grad_gate, grad_up) = B::swiglu_backward(gate, up, grad);
                for (parent, grad) in ops.parents.into_iter().zip([grad_gate, grad_up]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        let out = B::swiglu(gate.clone(), up.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
