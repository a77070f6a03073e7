//! Gradients of a step and what AdamW remembers between steps, by checkpoint names.

use std::collections::BTreeMap;

use burn::tensor::{self, ElementConversion, Tensor};

use super::policy::Policy;
use crate::kernels::adamw::{Step, adamw};
use crate::kernels::norm::squared_norm;

/// AdamW's constant numbers (PyTorch's defaults but for the weight decay, which is 0 as in the field's recipes).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the two running means.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on matrices alone.
    pub weight_decay: f64,
}

/// The gradients of one optimizer step, summed over its micro-batches.
#[derive(Debug, Default)]
pub struct Gradients {
    sums: BTreeMap<String, Tensor<1>>,
}

impl Gradients {
    /// Adds what a backward pass left for the parameters of `policy`.
    pub fn add(&mut self, policy: &Policy, gradients: &mut tensor::Gradients) {
        policy.take_gradients(gradients, |name, gradient| {
            let sum = match self.sums.remove(name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.sums.insert(name.to_owned(), sum);
        });
    }

    /// Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        let squares = self.sums.values().map(|gradient| squared_norm(gradient.clone()));
        squares.map(|square| square.into_scalar::<f32>().elem::<f64>()).sum::<f64>().sqrt()
    }
}

/// Moments and the number of steps taken.
#[derive(Debug, Default)]
pub struct State {
    moments: BTreeMap<String, [Tensor<1>; 2]>,
    steps: u64,
}

impl State {
    /// What a checkpoint held.
    pub fn new(moments: BTreeMap<String, [Tensor<1>; 2]>, steps: u64) -> Self {
        Self { moments, steps }
    }

    /// First and second moments by parameter.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor<1>; 2]> {
        &self.moments
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether no gradient was ever above 0.
    pub fn is_idle(&self) -> bool {
        let is_zero = |moment: &Tensor<1>| squared_norm(moment.clone()).into_scalar::<f32>().elem::<f64>() == 0.0;
        self.moments.values().flatten().all(is_zero)
    }

    /// One step on every parameter that has a gradient.
    pub fn step(
        &mut self,
        policy: Policy,
        mut gradients: Gradients,
        settings: &AdamW,
        learning_rate: f64,
        gradient_scale: f64,
    ) -> Policy {
        self.steps += 1;
        let AdamW { betas, eps, weight_decay } = *settings;
        let mut vectors = Vec::new();
        policy.for_each_parameter(|name, _, shape| {
            if shape.len() < 2 {
                vectors.push(name.to_owned());
            }
        });
        policy.map_parameters(|name, parameter| {
            let Some(gradient) = gradients.sums.remove(name) else { return parameter };
            let zeros = || parameter.zeros_like();
            let moments = self.moments.remove(name).unwrap_or_else(|| [zeros(), zeros()]);
            let weight_decay = if vectors.iter().any(|vector| vector == name) { 0.0 } else { weight_decay };
            let step = Step { learning_rate, betas, eps, weight_decay, count: self.steps, gradient_scale };
            let [parameter, first, second] = adamw(parameter, moments, gradient, step);
            self.moments.insert(name.to_owned(), [first, second]);
            parameter
        })
    }
}
