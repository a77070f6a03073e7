//! Gradients of a step and what AdamW remembers between steps, by checkpoint names.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{self, Device, FloatDType, Tensor};

use super::policy::Policy;
use crate::kernels::adamw::{Step, adamw};
use crate::kernels::norm::squared_norm;
use crate::model::score::budget;

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

/// Parameters of at most this many numbers are updated in groups on devices, where each alone would be launches more than work.
const SMALL: usize = 1 << 20;
/// The most numbers of a group.
const GROUP: usize = 1 << 24;

impl Gradients {
    /// Adds what a backward pass left for the parameters of `policy`.
    pub fn add(&mut self, policy: &Policy, gradients: &mut tensor::Gradients) {
        policy.take_gradients(gradients, |name, gradient| {
            // A sum is f32 also of passes in bf16; of one pass it stays as it is.
            let sum = match self.sums.remove(name) {
                Some(sum) => sum.cast(FloatDType::F32) + gradient.cast(FloatDType::F32),
                None => gradient,
            };
            self.sums.insert(name.to_owned(), sum);
        });
    }

    /// Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        squares(self.sums.values()).into_iter().sum::<f64>().sqrt()
    }
}

/// The sum of squares of every tensor, in one copy from the device.
fn squares<'t>(tensors: impl Iterator<Item = &'t Tensor<1>>) -> Vec<f64> {
    let sums: Vec<Tensor<1>> = tensors.map(|tensor| squared_norm(tensor.clone())).collect();
    if sums.is_empty() {
        return Vec::new();
    }
    let sums = Tensor::cat(sums, 0).into_data().convert::<f64>().try_into_vec::<f64>();
    sums.expect("just converted to f64")
}

/// What AdamW remembers between steps.
#[derive(Debug, Default)]
pub struct State {
    moments: BTreeMap<String, [Tensor<1>; 2]>,
    /// The parameters in f32 where passes use copies in bf16.
    masters: BTreeMap<String, Tensor<1>>,
    steps: u64,
}

impl State {
    /// What a checkpoint held.
    pub fn new(moments: BTreeMap<String, [Tensor<1>; 2]>, steps: u64) -> Self {
        Self { moments, masters: BTreeMap::new(), steps }
    }

    /// First and second moments by parameter.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor<1>; 2]> {
        &self.moments
    }

    /// Keeps the matrices of `policy` in f32 and gives passes copies in bf16. Vectors, of norms and biases, are few and stay.
    #[must_use]
    pub fn keep_masters(&mut self, policy: Policy) -> Policy {
        let mut matrices = BTreeSet::new();
        policy.model().for_each_parameter(|name, values, shape| {
            if shape.len() > 1 && values.is_autodiff() {
                matrices.insert(name.to_owned());
            }
        });
        policy.map_parameters(|name, values| match matrices.contains(name) {
            true => {
                let copy = values.clone().cast(FloatDType::BF16);
                self.masters.insert(name.to_owned(), values);
                copy
            }
            false => values,
        })
    }

    /// The parameter `name` in f32, where passes use a copy of it.
    pub fn master(&self, name: &str) -> Option<&Tensor<1>> {
        self.masters.get(name)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether no gradient was ever above 0.
    pub fn is_idle(&self) -> bool {
        squares(self.moments.values().flatten()).into_iter().all(|square| square == 0.0)
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
        let step = Step { learning_rate, betas, eps, weight_decay, count: self.steps, gradient_scale };
        let of_vectors = Step { weight_decay: 0.0, ..step };
        let mut vectors = BTreeSet::new();
        let mut small: [Vec<(String, Tensor<1>)>; 2] = Default::default();
        policy.for_each_parameter(|name, values, shape| {
            let is_vector = shape.len() < 2;
            if is_vector {
                vectors.insert(name.to_owned());
            }
            let on_device = values.device() != Device::flex();
            if on_device && values.dims()[0] <= SMALL && gradients.sums.contains_key(name) {
                small[usize::from(is_vector)].push((name.to_owned(), values.inner()));
            }
        });
        let mut updated = BTreeMap::new();
        for (small, step) in small.into_iter().zip([step, of_vectors]) {
            for range in budget(small.iter().map(|(_, values)| values.dims()[0]), GROUP) {
                updated.extend(self.update(small[range].to_vec(), &mut gradients, step));
            }
        }
        policy.map_parameters(|name, parameter| {
            if let Some(updated) = updated.remove(name) {
                return updated;
            }
            if !gradients.sums.contains_key(name) {
                return parameter;
            }
            let step = if vectors.contains(name) { of_vectors } else { step };
            let one = self.update(vec![(name.to_owned(), parameter)], &mut gradients, step);
            one.into_values().next().expect("an update of one parameter has one")
        })
    }

    /// One step on parameters that have gradients, in one kernel; what passes use of each afterwards.
    fn update(
        &mut self,
        members: Vec<(String, Tensor<1>)>,
        gradients: &mut Gradients,
        step: Step,
    ) -> BTreeMap<String, Tensor<1>> {
        let mut parts: [Vec<Tensor<1>>; 4] = Default::default();
        let mut places = Vec::with_capacity(members.len());
        for (name, values) in members {
            let master = self.masters.remove(&name);
            places.push((name.clone(), values.dims()[0], master.is_some()));
            let values = master.unwrap_or(values);
            let zeros = || values.zeros_like();
            let [first, second] = self.moments.remove(&name).unwrap_or_else(|| [zeros(), zeros()]);
            let gradient = gradients.sums.remove(&name).expect("every member has a gradient").cast(FloatDType::F32);
            parts.iter_mut().zip([values, first, second, gradient]).for_each(|(part, tensor)| part.push(tensor));
        }
        let [values, first, second, gradient] = parts.map(|mut part| match part.len() {
            1 => part.remove(0),
            _ => Tensor::cat(part, 0),
        });
        let [values, first, second] = adamw(values, [first, second], gradient, step);
        let (alone, mut start) = (places.len() == 1, 0);
        let own = places.into_iter().map(|(name, size, has_copy)| {
            let part = |tensor: &Tensor<1>| match alone {
                true => tensor.clone(),
                false => tensor.clone().narrow(0, start, size),
            };
            let (parameter, moments) = (part(&values), [part(&first), part(&second)]);
            start += size;
            self.moments.insert(name.clone(), moments);
            if !has_copy {
                return (name, parameter);
            }
            let copy = parameter.clone().cast(FloatDType::BF16);
            self.masters.insert(name.clone(), parameter);
            (name, copy)
        });
        own.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CausalLm, ModelSource, Weights};
    use crate::objective::States;
    use serde_json::json;

    fn policy(device: &Device) -> Policy {
        let config = json!({
            "model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        });
        let source = ModelSource::new("small", Weights::Init { config, seed: 1 }, None);
        Policy::new(CausalLm::load(&source, device).unwrap(), States::Nothing, 1, device)
    }

    /// The parameters after three steps along gradients that follow from them.
    fn trained(device: &Device) -> BTreeMap<String, Vec<f32>> {
        let (mut policy, mut state) = (policy(&device.clone().autodiff()), State::default());
        for _ in 0..3 {
            let mut gradients = Gradients::default();
            policy.for_each_parameter(|name, values, _| {
                gradients.sums.insert(name.to_owned(), values.inner() * 0.5 + 0.01);
            });
            let settings = AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
            policy = state.step(policy, gradients, &settings, 0.01, 0.7);
        }
        let mut all = BTreeMap::new();
        policy.for_each_parameter(|name, values, _| {
            all.insert(name.to_owned(), values.into_data().try_into_vec::<f32>().unwrap());
        });
        all
    }

    #[test]
    fn a_group_takes_the_steps_of_its_members() {
        let alone = trained(&Device::flex());
        assert_eq!(alone.len(), 11);
        let (device, mut state) = (Device::flex(), State::default());
        let policy = policy(&device.clone().autodiff());
        let (mut members, mut gradients) = (Vec::new(), Gradients::default());
        policy.for_each_parameter(|name, values, _| {
            gradients.sums.insert(name.to_owned(), values.clone().inner() * 0.5 + 0.01);
            members.push((name.to_owned(), values.inner()));
        });
        let step = Step {
            learning_rate: 0.01,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            count: 1,
            gradient_scale: 0.7,
        };
        let host = |tensor: &Tensor<1>| tensor.to_data().try_into_vec::<f32>().unwrap();
        let mut one_by_one = State::default();
        let mut expected = BTreeMap::new();
        for (name, values) in &members {
            let mut own = Gradients::default();
            own.sums.insert(name.clone(), gradients.sums[name].clone());
            expected.extend(one_by_one.update(vec![(name.clone(), values.clone())], &mut own, step));
        }
        let together = state.update(members, &mut gradients, step);
        for (name, values) in &together {
            assert_eq!(host(values), host(&expected[name]), "{name}");
            let [moments, others] = [&state, &one_by_one].map(|state| state.moments[name].each_ref().map(host));
            assert_eq!(moments, others, "{name}");
        }
    }

    #[cfg(feature = "tch")]
    #[test]
    fn steps_on_libtorch_are_those_on_the_processor() {
        use crate::close::{Tolerance, assert_close};
        let (want, got) = (trained(&Device::flex()), trained(&Device::libtorch()));
        assert_eq!(want.len(), got.len());
        for (name, want) in want {
            assert_close(&got[&name], &want, Tolerance::Relative(1e-6), format_args!("{name}"));
        }
    }
}
