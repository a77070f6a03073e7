//! A linear layer on rows, with the weight as checkpoints store it.
//!
//! In burn's own the gradient of the weight is a transposed view; here it has the layout of the weight, and is not computed for
//! frozen weights. Few rows use a product of their own (`flex::few_rows`).

mod flex;
#[cfg(feature = "tch")]
mod libtorch;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, backend_extension};
use burn::tensor::{FloatDType, Tensor};

use super::input::{GradientSum, Input};
use super::layout::Layout;

/// `x W^T`, or `x W` for a weight `[in, out]`: x `[rows, in]`, result `[rows, out]`.
pub fn linear(x: impl Into<Input>, weight: Tensor<2>, layout: Layout) -> Tensor<2> {
    let (x, sum) = x.into().parts();
    Tensor::from_dispatch(<Dispatch as Linear>::rows_linear(x.into_dispatch(), weight.into_dispatch(), layout, sum))
}

/// `x W^T` in f32, whatever the type of both, and without a gradient: the logits of an output head `[vocabulary, in]`.
pub fn logits(x: Tensor<2>, head: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Linear>::logits(x.into_dispatch(), head.into_dispatch()))
}

/// The kernel; see [`linear`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Linear: Backend {
    /// `x W^T`, or `x W`. Autodiff adds the gradient of x to `sum`.
    fn rows_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        layout: Layout,
        sum: GradientSum,
    ) -> FloatTensor<Self> {
        let _ = sum;
        many_rows::<Self>(x, weight, layout)
    }

    /// `x W^T` in f32.
    fn logits(x: FloatTensor<Self>, head: FloatTensor<Self>) -> FloatTensor<Self> {
        let [x, head] = [x, head].map(|tensor| Self::float_cast(tensor, FloatDType::F32));
        Self::rows_linear(x, head, Layout::OutIn, GradientSum::default())
    }

    /// `lhs @ rhs`, of two matrices.
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }

    /// `sum + lhs @ rhs`.
    fn product_onto(sum: FloatTensor<Self>, lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(Self::product(lhs, rhs), sum)
    }
}

fn many_rows<B: Linear>(x: FloatTensor<B>, weight: FloatTensor<B>, layout: Layout) -> FloatTensor<B> {
    match layout {
        Layout::OutIn => B::product(x, B::float_transpose(weight)),
        Layout::InOut => B::product(x, weight),
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Linear for burn::backend::Cube {}

impl<B: Linear, C: CheckpointStrategy> Linear for Autodiff<B, C> {
    fn logits(x: FloatTensor<Self>, head: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::logits(x.into_primitive(), head.into_primitive()))
    }

    fn rows_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        layout: Layout,
        sum: GradientSum,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Linear> Backward<B, 2> for Node {
            /// x is kept only for a weight that trains, the weight only for an x that has a gradient.
            type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>, Layout, GradientSum);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight, layout, sum) = ops.state;
                let [x_node, weight_node] = ops.parents;
                if let (Some(node), Some(weight)) = (x_node, weight) {
                    let weight = match layout {
                        Layout::OutIn => weight,
                        Layout::InOut => B::float_transpose(weight),
                    };
                    sum.add::<B>(grads, node.id, |above| match above {
                        Some(above) => B::product_onto(above, grad.clone(), weight),
                        None => B::product(grad.clone(), weight),
                    });
                }
                if let (Some(node), Some(x)) = (weight_node, x) {
                    let grad = match layout {
                        Layout::OutIn => B::product(B::float_transpose(grad), x),
                        Layout::InOut => B::product(B::float_transpose(x), grad),
                    };
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let out = B::rows_linear(x.clone(), weight.clone(), layout, sum.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((weight_tracked.then_some(x), x_tracked.then_some(weight), layout, sum), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
