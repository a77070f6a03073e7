//! Rotary position embedding, half-split as Hugging Face checkpoints have it (arXiv 2104.09864): dimension `i` of a
//! head is paired with `i + d/2`, and each pair is rotated by the angle of its position.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};
use rayon::prelude::*;

use super::flex::memory::{ROWS, values, whole};
use super::flex::simd::vectorized;

/// Rotates every head of every row: x `[rows, heads * head_dim]`, cos and sin `[rows, half]`. The first `2 * half` dimensions of a
/// head rotate, the others are unchanged.
pub fn rotary(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>, head_dim: usize) -> Tensor<2> {
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Rotary>::rotary(x, cos, sin, head_dim))
}

/// The kernel; see [`rotary`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Rotary: Backend {
    /// Rotates every head of every row. The backward pass is the same with `-sin`.
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
    ) -> FloatTensor<Self> {
        portable::<Self>(x, cos, sin, head_dim)
    }
}

pub(super) fn portable<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
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
    let cos = B::float_reshape(cos, [rows, 1, half].into());
    let sin = B::float_reshape(sin, [rows, 1, half].into());
    let mut parts = vec![
        B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone())),
        B::float_add(B::float_mul(second, cos), B::float_mul(first, sin)),
    ];
    if 2 * half < head_dim {
        parts.push(part(2 * half, head_dim));
    }
    B::float_reshape(B::float_cat(parts, 2), [rows, width].into())
}

#[cfg(feature = "tch")]
impl Rotary for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Rotary for burn::backend::Cube {}

impl Rotary for Flex {
    fn rotary(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, head_dim: usize) -> FlexTensor {
        let (mut x, cos, sin) = (whole(x), cos.to_contiguous(), sin.to_contiguous());
        let (width, half) = (x.shape()[1], cos.shape()[1]);
        let angles = values(&cos).par_chunks(half * ROWS).zip(values(&sin).par_chunks(half * ROWS));
        x.storage_mut::<f32>().par_chunks_mut(width * ROWS).zip(angles).for_each(|(x, (cos, sin))| {
            vectorized(
                #[inline(always)]
                || {
                    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                    for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
                        for x in x.chunks_exact_mut(head_dim) {
                            let (first, second) = x[..2 * half].split_at_mut(half);
                            for i in 0..half {
                                let (one, other) = (first[i], second[i]);
                                first[i] = one * cos[i] - other * sin[i];
                                second[i] = other * cos[i] + one * sin[i];
                            }
                        }
                    }
                },
            );
        });
        x
    }
}

impl<B: Rotary, C: CheckpointStrategy> Rotary for Autodiff<B, C> {
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head_dim: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Rotary> Backward<B, 1> for Node {
            type State = (FloatTensor<B>, FloatTensor<B>, usize);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (cos, sin, head_dim) = ops.state;
                let [parent] = ops.parents;
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, B::rotary(grad, cos, B::float_neg(sin), head_dim));
                }
            }
        }
        let nodes = [x.node()];
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let out = B::rotary(x.into_primitive(), cos.clone(), sin.clone(), head_dim);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos, sin, head_dim), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
