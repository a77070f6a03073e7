//! Rotary position embedding, half-split as Hugging Face checkpoints have it (arXiv 2104.09864): dimension `i` of a
//! head is paired with `i + d/2`, and each pair is rotated by the angle of its position.

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
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};

/// Rotates every head of every row: x `[rows, heads * head_dim]`; cosine, sine and negative sine `[rows, half]` of the angles. The
/// first `2 * half` dimensions of a head rotate, the others are unchanged.
pub fn rotary(x: Tensor<2>, angles: [Tensor<2>; 3], head_dim: usize) -> Tensor<2> {
    let [cos, sin, minus_sin] = angles.map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Rotary>::rotary(x.into_dispatch(), cos, sin, minus_sin, head_dim))
}

/// The kernel; see [`rotary`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Rotary: Backend {
    /// Rotates every head of every row. The backward pass is the same with `sin` and `minus_sin` exchanged.
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        minus_sin: FloatTensor<Self>,
        head_dim: usize,
    ) -> FloatTensor<Self> {
        portable::<Self>(x, cos, sin, minus_sin, head_dim)
    }
}

pub(in crate::kernels) fn portable<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    minus_sin: FloatTensor<B>,
    head_dim: usize,
) -> FloatTensor<B> {
    let [rows, width] = x.shape().dims();
    let half = cos.shape()[1];
    let heads = width / head_dim;
    let x = B::float_reshape(x, [rows, heads, head_dim].into());
    let part = |from: usize, to: usize| {
        let ranges = [0..rows, 0..heads, from..to].map(Slice::from);
        B::float_slice(x.clone(), &ranges)
    };
    let (first, second) = (part(0, half), part(half, 2 * half));
    let [cos, sin, minus_sin] = [cos, sin, minus_sin].map(|table| B::float_reshape(table, [rows, 1, half].into()));
    let mut parts = vec![
        B::float_add(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), minus_sin)),
        B::float_add(B::float_mul(second, cos), B::float_mul(first, sin)),
    ];
    if 2 * half < head_dim {
        parts.push(part(2 * half, head_dim));
    }
    B::float_reshape(B::float_cat(parts, 2), [rows, width].into())
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Rotary for burn::backend::Cube {}

impl<B: Rotary, C: CheckpointStrategy> Rotary for Autodiff<B, C> {
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        minus_sin: FloatTensor<Self>,
        head_dim: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Rotary> Backward<B, 1> for Node {
            type State = ([FloatTensor<B>; 3], usize);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([cos, sin, minus_sin], head_dim) = ops.state;
                let [parent] = ops.parents;
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, B::rotary(grad, cos, minus_sin, sin, head_dim));
                }
            }
        }
        let nodes = [x.node()];
        let angles = [cos, sin, minus_sin].map(|table| table.into_primitive());
        let [cos, sin, minus_sin] = angles.clone();
        let out = B::rotary(x.into_primitive(), cos, sin, minus_sin, head_dim);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((angles, head_dim), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
