//! The learned baseline of TBPO-Q (arXiv 2605.12288), a value for every state that is subtracted from the log-ratios: two linear
//! layers with a GELU between them, on the last hidden state. Its output is 0 at the start.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Gradients, Tensor, TensorData};
use rand_distr::{Distribution, Uniform};

use super::layers::random::random;
use super::layers::visit;
use crate::kernels::gelu::{Gelu, gelu};
use crate::kernels::layout::Layout;
use crate::kernels::linear::linear;

/// The baseline. A constant added to it would cancel, so the second layer has no bias.
#[derive(Module, Debug)]
pub struct Baseline {
    /// `[width, hidden]`.
    up: Param<Tensor<2>>,
    /// `[width]`.
    shift: Param<Tensor<1>>,
    /// `[1, width]`.
    down: Param<Tensor<2>>,
}

const PREFIX: &str = "baseline.";

impl Baseline {
    /// A new, trainable baseline with `width` hidden units for states of size `hidden`.
    pub fn new(hidden: usize, width: usize, seed: u64, device: &Device) -> Self {
        let bound = 1.0 / (hidden as f32).sqrt();
        let uniform = Uniform::new_inclusive(-bound, bound).expect("a hidden state has a size");
        let up: Vec<f32> = uniform.sample_iter(random(seed, PREFIX)).take(width * hidden).collect();
        let trained = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device)).set_require_grad(true)
        };
        Self {
            up: trained(up, [width, hidden]),
            shift: Param::from_tensor(Tensor::zeros([width], device)).set_require_grad(true),
            down: trained(vec![0.0; width], [1, width]),
        }
    }

    /// The value of every state: hidden `[rows, hidden]`, result `[rows]`.
    pub fn values(&self, hidden: Tensor<2>) -> Tensor<1> {
        let inner = linear(hidden.cast(FloatDType::F32), self.up.val(), Layout::OutIn) + self.shift.val().unsqueeze();
        linear(gelu(inner, Gelu::Tanh), self.down.val(), Layout::OutIn).flatten(0, 1)
    }

    /// As [`CausalLm::for_each_parameter`](super::CausalLm::for_each_parameter).
    pub fn for_each_parameter(&self, mut visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        visit::for_each(self, |name, values, shape| visit(&format!("{PREFIX}{name}"), values, shape));
    }

    /// As [`CausalLm::take_gradients`](super::CausalLm::take_gradients).
    pub fn take_gradients(&self, gradients: &mut Gradients, mut take: impl FnMut(&str, Tensor<1>)) {
        visit::take_gradients(self, gradients, |name, gradient| take(&format!("{PREFIX}{name}"), gradient));
    }

    /// As [`CausalLm::map_parameters`](super::CausalLm::map_parameters).
    pub fn map_parameters(self, mut replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        visit::map(self, |name, values| replace(&format!("{PREFIX}{name}"), values))
    }
}
