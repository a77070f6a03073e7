//! GELU: `y = x Φ(x)` with the normal distribution function Φ, or its approximation by a hyperbolic tangent (arXiv 1606.08415).

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
use burn::tensor::Tensor;

pub(super) use portable::{portable, portable_backward};

/// The exact function or the approximation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x Φ(x)`.
    Exact,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    Tanh,
}

impl Gelu {
    /// The function that `transformers` calls `name`.
    ///
    /// # Errors
    /// A function that is not supported.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "gelu" | "gelu_python" => Ok(Self::Exact),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok(Self::Tanh),
            other => Err(format!(
                "`{other}` is not supported; supported: gelu, gelu_new, gelu_fast, gelu_accurate, gelu_pytorch_tanh"
            )),
        }
    }
}

/// `√(2/π)` and the cubic term of the approximation.
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// GELU of every element.
pub fn gelu<const D: usize>(x: Tensor<D>, kind: Gelu) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GeluKernel>::rows_gelu(x.into_dispatch(), kind))
}

/// The kernel; see [`gelu`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait GeluKernel: Backend {
    /// GELU of every element.
    fn rows_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        portable::<Self>(x, kind)
    }

    /// The gradient with respect to x, given that of the output.
    fn rows_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        portable_backward::<Self>(x, grad, kind)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl GeluKernel for burn::backend::Cube {}

impl<B: GeluKernel, C: CheckpointStrategy> GeluKernel for Autodiff<B, C> {
    fn rows_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: GeluKernel> Backward<B, 1> for Node {
            type State = (FloatTensor<B>, Gelu);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, kind) = ops.state;
                let [parent] = ops.parents;
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, B::rows_gelu_backward(x, grad, kind));
                }
            }
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        let out = B::rows_gelu(x.clone(), kind);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, kind), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
