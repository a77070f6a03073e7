//! Gradients of a step and what AdamW remembers between steps, by checkpoint names.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{self, DType, Device, FloatDType, Tensor};

use super::kept::{Kept, Master, Moments};
use super::policy::Policy;
use crate::kernels::adamw::{Step, adamw};
use crate::kernels::norm::squared_norm;
use crate::kernels::rounding::round_stochastically;
use crate::model::room::budget;

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
/// The most numbers of a group; of a larger parameter that is kept in bf16, as many are in f32 at a time.
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
    kept: Kept,
    /// Seed of the random numbers of stochastic rounding.
    seed: u64,
}

impl State {
    /// Before the first step.
    pub fn new(kept: Kept, seed: u64) -> Self {
        Self { kept, seed, ..Self::default() }
    }

    /// What a checkpoint held after `steps` steps.
    pub fn restore(&mut self, moments: BTreeMap<String, [Tensor<1>; 2]>, steps: u64) {
        let dtype = self.moments_dtype();
        let moments = moments.into_iter().map(|(name, both)| (name, both.map(|moment| moment.cast(dtype))));
        (self.moments, self.steps) = (moments.collect(), steps);
    }

    fn moments_dtype(&self) -> FloatDType {
        match self.kept.state {
            Moments::F32 => FloatDType::F32,
            Moments::Bf16 => FloatDType::BF16,
        }
    }

    /// First and second moments by parameter.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor<1>; 2]> {
        &self.moments
    }

    /// Gives passes the matrices of `policy` in bf16, and keeps those in f32 unless none are wanted. Vectors, of norms and biases, are
    /// few and stay.
    #[must_use]
    pub fn narrowed(&mut self, policy: Policy) -> Policy {
        let mut matrices = BTreeSet::new();
        policy.model().for_each_parameter(|name, values, shape| {
            if shape.len() > 1 && values.is_autodiff() {
                matrices.insert(name.to_owned());
            }
        });
        policy.map_parameters(|name, values| match matrices.contains(name) {
            true => {
                if self.kept.master == Master::F32 {
                    self.masters.insert(name.to_owned(), values.clone());
                }
                values.cast(FloatDType::BF16)
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
        // Members of a group have one type and one decay.
        let mut small: BTreeMap<(bool, bool), Vec<(String, Tensor<1>)>> = BTreeMap::new();
        policy.for_each_parameter(|name, values, shape| {
            let is_vector = shape.len() < 2;
            if is_vector {
                vectors.insert(name.to_owned());
            }
            let on_device = values.device() != Device::flex();
            if on_device && values.dims()[0] <= SMALL && gradients.sums.contains_key(name) {
                let kind = (is_vector, values.dtype() == DType::BF16 && !self.masters.contains_key(name));
                small.entry(kind).or_default().push((name.to_owned(), values.inner()));
            }
        });
        let mut updated = BTreeMap::new();
        for ((is_vector, _), small) in small {
            let step = if is_vector { of_vectors } else { step };
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
        let (mut places, dtype) = (Vec::with_capacity(members.len()), self.moments_dtype());
        for (name, values) in members {
            let master = self.masters.remove(&name);
            places.push((name.clone(), values.dims()[0], master.is_some()));
            let values = master.unwrap_or(values);
            let zeros = || values.zeros_like().cast(dtype);
            let [first, second] = self.moments.remove(&name).unwrap_or_else(|| [zeros(), zeros()]);
            let gradient = gradients.sums.remove(&name).expect("every member has a gradient");
            parts.iter_mut().zip([values, first, second, gradient]).for_each(|(part, tensor)| part.push(tensor));
        }
        let [values, first, second] = self.stepped(&places[0].0, parts.map(joined), step);
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

    /// Parameter and moments after a step, from these and the gradient, in the types that they have. `name` is that of the first
    /// parameter of the group.
    fn stepped(&self, name: &str, all: [Tensor<1>; 4], step: Step) -> [Tensor<1>; 3] {
        let dtypes = [0, 1, 2].map(|index| all[index].dtype());
        let size = all[0].dims()[0];
        let pieces = match dtypes {
            [DType::F32, DType::F32, DType::F32] => vec![all],
            _ if size <= GROUP => vec![all],
            _ => {
                let piece = |start: usize| {
                    all.each_ref().map(|tensor| tensor.clone().narrow(0, start, GROUP.min(size - start)))
                };
                (0..size).step_by(GROUP).map(piece).collect()
            }
        };
        let mut done: [Vec<Tensor<1>>; 3] = Default::default();
        for (piece, all) in pieces.into_iter().enumerate() {
            let [values, first, second, gradient] = all.map(|tensor| tensor.cast(FloatDType::F32));
            let found = adamw(values, [first, second], gradient, step);
            for (index, (tensor, dtype)) in found.into_iter().zip(dtypes).enumerate() {
                done[index].push(match dtype {
                    DType::BF16 => round_stochastically(tensor, self.noise(name, [index, piece])),
                    _ => tensor,
                });
            }
        }
        done.map(joined)
    }

    /// The seed of one rounding of this step.
    fn noise(&self, name: &str, place: [usize; 2]) -> u64 {
        let numbers = [self.seed, self.steps, place[0] as u64, place[1] as u64].map(u64::to_le_bytes);
        let mut hasher = blake3::Hasher::new();
        hasher.update(numbers.as_flattened()).update(name.as_bytes());
        let mut seed = [0; size_of::<u64>()];
        hasher.finalize_xof().fill(&mut seed);
        u64::from_le_bytes(seed)
    }
}

/// Parts of a tensor as one.
fn joined(mut parts: Vec<Tensor<1>>) -> Tensor<1> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
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

    /// Parameters after `steps` small steps from 1 up, the first moments kept as `kept` says.
    fn risen(kept: Kept, steps: u64, device: &Device) -> Vec<f32> {
        let mut state = State::new(kept, 5);
        let dtype = if kept.master == Master::None { FloatDType::BF16 } else { FloatDType::F32 };
        let mut values = Tensor::<1>::ones([4096], device).cast(dtype);
        for count in 1..=steps {
            let mut gradients = Gradients::default();
            gradients.sums.insert("w".into(), Tensor::ones([4096], device) * -0.5);
            let step = Step {
                learning_rate: 1e-4,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0,
                count,
                gradient_scale: 1.0,
            };
            state.steps = count;
            values = state.update(vec![("w".into(), values)], &mut gradients, step).remove("w").unwrap();
        }
        assert_eq!(state.moments["w"][0].dtype(), state.moments_dtype().into());
        assert_eq!(values.dtype(), DType::from(dtype));
        values.cast(FloatDType::F32).into_data().try_into_vec().unwrap()
    }

    /// A step of 1e-4 is a 78th of what bf16 represents beside 1: rounded to the nearest, no step would change anything.
    #[test]
    fn steps_smaller_than_bf16_represents_add_up() {
        let devices = [
            Device::flex(),
            #[cfg(feature = "tch")]
            Device::libtorch(),
        ];
        for device in devices {
            for (state, master) in
                [(Moments::Bf16, Master::F32), (Moments::F32, Master::None), (Moments::Bf16, Master::None)]
            {
                let kept = Kept { state, master };
                let found = risen(kept, 50, &device);
                let mean = found.iter().map(|value| f64::from(*value)).sum::<f64>() / found.len() as f64;
                assert!((mean - 1.005).abs() < 2e-4, "{kept:?}: {mean}");
                assert_eq!(found, risen(kept, 50, &device), "{kept:?}: the same seed");
            }
        }
    }

    #[test]
    fn a_parameter_in_pieces_takes_the_steps_of_the_whole() {
        let size = GROUP + 3;
        let step = Step {
            learning_rate: 0.01,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            count: 1,
            gradient_scale: 1.0,
        };
        let device = Device::flex();
        let kept = Kept { state: Moments::Bf16, master: Master::F32 };
        let state = State::new(kept, 1);
        let zeros = || Tensor::<1>::zeros([size], &device).cast(FloatDType::BF16);
        let all = [Tensor::ones([size], &device), zeros(), zeros(), Tensor::ones([size], &device) * 0.5];
        let [values, first, _] = state.stepped("w", all, step);
        assert_eq!((values.dims(), first.dtype()), ([size], DType::BF16));
        let found: Vec<f32> = values.into_data().try_into_vec().unwrap();
        assert!(found.iter().all(|value| (value - 0.99).abs() < 1e-6), "{:?}", &found[size - 4..]);
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
