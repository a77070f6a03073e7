//! One AdamW step on one parameter in a single pass (arXiv 1711.05101; the arithmetic of `torch.optim.AdamW`).

#[cfg(feature = "tch")]
mod cuda;
mod flex;
#[cfg(feature = "tch")]
mod libtorch;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// The hyperparameters of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of the step, from 1, for the bias correction.
    pub count: u64,
    /// Factor on the gradient, from clipping.
    pub gradient_scale: f64,
}

impl Step {
    /// `[decay, beta1, beta2, 1/sqrt(bias2), eps, rate, scale]` for the inner loop.
    fn factors(&self) -> [f32; 7] {
        let [beta1, beta2] = self.betas;
        let count = self.count as i32;
        let bias = [1.0 - beta1.powi(count), 1.0 - beta2.powi(count)];
        [
            1.0 - self.learning_rate * self.weight_decay,
            beta1,
            beta2,
            1.0 / bias[1].sqrt(),
            self.eps,
            self.learning_rate / bias[0],
            self.gradient_scale,
        ]
        .map(|factor| factor as f32)
    }
}

/// The parameter and its two moments after a step; all flat and of equal length, on a device without autodiff.
pub fn adamw(parameter: Tensor<1>, moments: [Tensor<1>; 2], gradient: Tensor<1>, step: Step) -> [Tensor<1>; 3] {
    let [first, second] = moments.map(Tensor::into_dispatch);
    let (parameter, first, second) =
        <Dispatch as AdamW>::adamw(parameter.into_dispatch(), first, second, gradient.into_dispatch(), step);
    [parameter, first, second].map(Tensor::from_dispatch)
}

/// The kernel; see [`adamw`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait AdamW: Backend {
    /// One step: parameter, first moment, second moment.
    fn adamw(
        parameter: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(parameter, first, second, gradient, step)
    }
}

pub(in crate::kernels) fn portable<B: Backend>(
    parameter: FloatTensor<B>,
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    gradient: FloatTensor<B>,
    step: Step,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [decay, beta1, beta2, root, eps, rate, scale] = step.factors();
    let times = |x, factor: f32| B::float_mul_scalar(x, factor.into());
    let gradient = times(gradient, scale);
    let squared = B::float_mul(gradient.clone(), gradient.clone());
    let first = B::float_add(times(first, beta1), times(gradient, 1.0 - beta1));
    let second = B::float_add(times(second, beta2), times(squared, 1.0 - beta2));
    let denominator = B::float_add_scalar(times(B::float_sqrt(second.clone()), root), eps.into());
    let update = times(B::float_div(first.clone(), denominator), rate);
    (B::float_sub(times(parameter, decay), update), first, second)
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl AdamW for burn::backend::Cube {}
