//! SwiGLU: `y = silu(gate) * up`, the gate of Llama's feed-forward network (arXiv 2002.05202).

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::memory::{tensor, values, whole};
use super::flex::simd::{exp, vectorized};

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

pub(super) fn portable<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let sigmoid = B::sigmoid(gate.clone());
    B::float_mul(B::float_mul(gate, sigmoid), up)
}

pub(super) fn portable_backward<B: Backend>(
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

#[cfg(feature = "tch")]
impl SwiGlu for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl SwiGlu for burn::backend::Cube {}

/// Elements per task.
const CHUNK: usize = 16 * 1024;

impl SwiGlu for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (mut out, up) = (whole(gate), up.to_contiguous());
        let gates = out.storage_mut::<f32>().par_chunks_mut(CHUNK);
        gates.zip(values(&up).par_chunks(CHUNK)).for_each(|(gate, up)| {
            vectorized(
                #[inline(always)]
                || {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = *gate / (1.0 + exp(-*gate)) * up;
                    }
                },
            );
        });
        out
    }

    fn swiglu_backward(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        let (gate, up, grad) = (gate.to_contiguous(), up.to_contiguous(), grad.to_contiguous());
        let size = values(&gate).len();
        let (mut grad_gate, mut grad_up) = (vec![0f32; size], vec![0f32; size]);
        let outputs = grad_gate.par_chunks_mut(CHUNK).zip(grad_up.par_chunks_mut(CHUNK));
        let inputs = values(&gate).par_chunks(CHUNK).zip(values(&up).par_chunks(CHUNK));
        let inputs = inputs.zip(values(&grad).par_chunks(CHUNK));
        outputs.zip(inputs).for_each(|((grad_gate, grad_up), ((gate, up), grad))| {
            vectorized(
                #[inline(always)]
                || {
                    for i in 0..gate.len() {
                        let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
                        let silu = gate[i] * sigmoid;
                        grad_gate[i] = grad[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
                        grad_up[i] = grad[i] * silu;
                    }
                },
            );
        });
        (like(grad_gate, &gate), like(grad_up, &gate))
    }
}

fn like(values: Vec<f32>, shape: &FlexTensor) -> FlexTensor {
    tensor(values, [shape.shape().num_elements()]).reshape(shape.shape())
}

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
