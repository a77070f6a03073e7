//! The input of an operation, where several operations read the same tensor.
//!
//! On the way back each of them has a gradient for that tensor. Autodiff adds them up, in an operation for each; an [`Input::shared`]
//! collects them in one sum to which the operations add as they compute: a product accumulates into it, a norm joins it in its last
//! step. A node between the tensor and its readers passes the sum on.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};

/// A tensor `[rows, width]` that an operation reads.
#[derive(Debug, Clone)]
pub struct Input {
    tensor: Tensor<2>,
    /// The tensor after the node that collects gradients, and their sum.
    shared: Option<(Tensor<2>, GradientSum)>,
}

impl From<Tensor<2>> for Input {
    fn from(tensor: Tensor<2>) -> Self {
        Self { tensor, shared: None }
    }
}

impl Input {
    /// `input` for several operations.
    pub fn shared(input: impl Into<Self>) -> Self {
        let input = input.into();
        if input.shared.is_some() || !input.tensor.is_autodiff() {
            return input;
        }
        let sum = GradientSum(Some(Arc::default()));
        let after = <Dispatch as Collect>::collect(input.tensor.clone().into_dispatch(), sum.clone());
        Self { tensor: input.tensor, shared: Some((Tensor::from_dispatch(after), sum)) }
    }

    /// The type of the tensor.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    /// The tensor, for an operation whose gradient autodiff adds.
    pub fn tensor(self) -> Tensor<2> {
        self.tensor
    }

    /// The input in type `dtype`. A conversion has one reader.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        match self.tensor.dtype() == dtype {
            true => self,
            false => self.tensor.cast(dtype).into(),
        }
    }

    /// The tensor for an operation that adds its gradient to the sum.
    pub(super) fn parts(self) -> (Tensor<2>, GradientSum) {
        match self.shared {
            Some(shared) => shared,
            None => (self.tensor, GradientSum::default()),
        }
    }
}

/// A gradient of any backend.
type Gradient = Box<dyn Any + Send>;

/// The sum of the gradients of one tensor. By default there is none, and autodiff adds them.
#[derive(Debug, Clone, Default)]
pub struct GradientSum(Option<Arc<Mutex<Option<Gradient>>>>);

impl GradientSum {
    fn replace<B: Backend>(&self, sum: Option<FloatTensor<B>>) -> Option<FloatTensor<B>> {
        let mut kept = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *kept, sum.map(|sum| Box::new(sum) as Gradient));
        before.and_then(|before| before.downcast().ok()).map(|before| *before)
    }

    /// Makes the gradient of the reader `node` part of the sum: `gradient` gets the sum so far, if there is one, and returns the new one.
    pub(super) fn add<B: Backend>(
        &self,
        grads: &mut Gradients,
        node: NodeId,
        gradient: impl FnOnce(Option<FloatTensor<B>>) -> FloatTensor<B>,
    ) {
        let sum = gradient(self.replace::<B>(None));
        match self.0 {
            Some(_) => drop(self.replace::<B>(Some(sum))),
            None => grads.register::<B>(node, sum),
        }
    }
}

/// The node before the readers of an [`Input::shared`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait Collect: Backend {
    /// `x`, whose gradient is what its readers leave in `sum`.
    fn collect(x: FloatTensor<Self>, sum: GradientSum) -> FloatTensor<Self> {
        let _ = sum;
        x
    }
}

impl Collect for Flex {}
#[cfg(feature = "tch")]
impl Collect for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Collect for burn::backend::Cube {}

impl<B: Collect, C: CheckpointStrategy> Collect for Autodiff<B, C> {
    fn collect(x: FloatTensor<Self>, sum: GradientSum) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: Collect> Backward<B, 1> for Node {
            type State = GradientSum;
            /// Its readers register no gradient with it, so there is none to consume.
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [parent] = ops.parents;
                if let (Some(parent), Some(sum)) = (parent, ops.state.replace::<B>(None)) {
                    grads.register::<B>(parent.id, sum);
                }
            }
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(sum, x),
            OpsKind::UnTracked(prep) => prep.finish(x),
        }
    }
}
