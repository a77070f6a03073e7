//! Forward and backward passes through the layers. A backward pass needs the activations of every layer; with little memory, only
//! hidden states between layers are kept, and each layer is recomputed (Chen et al. 2016, arXiv 1604.06174).

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architectures::CausalLm;
use super::batch::PackedBatch;
use super::layers::cache::KvCache;

/// What a training pass stores for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// The activations of all layers. The fastest.
    #[default]
    Normal,
    /// Only the hidden states between layers (activation checkpointing). The same gradients, at the cost of a second
    /// forward pass.
    Low,
}

impl CausalLm {
    /// The needed rows of `x` after the final norm.
    fn select(&self, x: Tensor<2>, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        let rows = TensorData::new(batch.rows.clone(), [batch.rows.len()]);
        let x = x.select(0, Tensor::<1, Int>::from_data(rows, device));
        self.body().norm(x)
    }

    /// Hidden states of the needed rows after the final norm; with a cache, rows attend to their sequence in it.
    pub(super) fn needed(&self, batch: &PackedBatch, mut cache: Option<&mut KvCache>, device: &Device) -> Tensor<2> {
        let body = self.body();
        let context = body.context(batch, device);
        let mut x = body.embed(batch, device);
        for index in 0..body.layers() {
            x = body.layer(index, x, &context, cache.as_deref_mut().map(|cache| cache.layer(index)));
        }
        self.select(x, batch, device)
    }

    /// Hidden states of the needed rows after the final norm, `[batch.rows.len(), width]`.
    pub fn hidden(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        self.needed(batch, None, device)
    }

    /// As [`Self::hidden`], for two models whose first `common` layers, at least one, are equal.
    pub(super) fn hidden_of_both(
        models: [&Self; 2],
        common: usize,
        batch: &PackedBatch,
        device: &Device,
    ) -> [Tensor<2>; 2] {
        let first = models[0].body();
        let context = first.context(batch, device);
        let trunk = (0..common).fold(first.embed(batch, device), |x, index| first.layer(index, x, &context, None));
        models.map(|model| {
            let body = model.body();
            let x = (common..body.layers()).fold(trunk.clone(), |x, index| body.layer(index, x, &context, None));
            model.select(x, batch, device)
        })
    }

    /// As [`Self::hidden`], on a device with autodiff, for a backward pass to follow.
    pub fn pass<'a>(&'a self, batch: &'a PackedBatch, device: &'a Device, memory: Memory) -> Pass<'a> {
        let mut between = Vec::new();
        let hidden = if memory == Memory::Low && self.body().layers() > 0 {
            let (model, device) = (self.valid(), device.clone().without_autodiff());
            let body = model.body();
            let context = body.context(batch, &device);
            let mut x = body.embed(batch, &device);
            for index in 0..body.layers() {
                x = body.layer(index, x, &context, None);
                between.push(x.clone());
            }
            Tensor::from_inner(model.select(x, batch, &device)).require_grad()
        } else {
            self.hidden(batch, device)
        };
        Pass { model: self, batch, device, hidden, between }
    }
}

/// A forward pass, before its backward pass.
pub struct Pass<'a> {
    model: &'a CausalLm,
    batch: &'a PackedBatch,
    device: &'a Device,
    hidden: Tensor<2>,
    /// The output of each layer, `[batch.len(), width]`; empty if the hidden states are part of one graph.
    between: Vec<Tensor<2>>,
}

impl Pass<'_> {
    /// Hidden states of the needed rows after the final norm, `[batch.rows.len(), width]`.
    pub fn hidden(&self) -> Tensor<2> {
        self.hidden.clone()
    }

    /// Back-propagates the scalar `loss`, a function of the hidden states. `add` is called with the gradients of all parameters, once
    /// or layer by layer.
    pub fn backward(self, loss: Tensor<1>, mut add: impl FnMut(&mut Gradients)) {
        let Self { model, batch, device, hidden, mut between } = self;
        let mut back = |x: Option<Tensor<2>>, y: Tensor<1>| {
            let mut gradients = y.backward();
            let grad = x.and_then(|x| x.grad_remove(&mut gradients));
            add(&mut gradients);
            grad.map(Tensor::<2>::from_inner)
        };
        if between.is_empty() {
            back(None, loss);
            return;
        }
        let body = model.body();
        let context = body.context(batch, device);
        let mut grad = back(Some(hidden), loss);
        // Backward through the final norm, then through the layers, the last one first.
        for index in (0..=body.layers()).rev() {
            let Some(above) = grad else { return };
            let x = between.pop().map(|x| Tensor::from_inner(x).require_grad());
            let input = x.clone().unwrap_or_else(|| body.embed(batch, device));
            let y = match index == body.layers() {
                true => model.select(input, batch, device),
                false => body.layer(index, input, &context, None),
            };
            grad = back(x, (y * above).sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::model::{ModelSource, Needed, Response};

    fn gradients(name: &str, memory: Memory) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let device = Device::flex().autodiff();
        let model = CausalLm::load(&ModelSource::folder(name, folder), &device).unwrap();
        let mut batch = PackedBatch::default();
        for prompt in [&[5, 9, 1, 7][..], &[3, 3]] {
            let responses = [&[4, 8, 2][..], &[6, 1]].map(|ids| Response { ids, needed: Needed::All });
            batch.push(prompt, &responses);
        }
        let pass = model.pass(&batch, &device, memory);
        let logps = model.logps_of(pass.hidden(), &batch);
        let grads: Vec<f32> = (0..batch.targets.len()).map(|index| 0.3 - 0.1 * index as f32).collect();
        let grads = Tensor::<1>::from_data(TensorData::new(grads, [batch.targets.len()]), &device);
        let values = logps.to_data().try_into_vec().unwrap();
        let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        pass.backward((logps * grads).sum(), |gradients| {
            model.take_gradients(gradients, |name, gradient| {
                let values: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
                match sums.get_mut(name) {
                    Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                    None => drop(sums.insert(name.to_owned(), values)),
                }
            });
        });
        (values, sums)
    }

    /// Bitwise, so that a training may continue with the other setting.
    #[test]
    fn short_memory_gives_the_same_gradients() {
        for name in ["llama-tied", "qwen3-tied", "gpt_neox-parallel", "gpt_neox-sequential-v4", "gpt2-untied"] {
            let (logps, all) = gradients(name, Memory::Normal);
            let (again, low) = gradients(name, Memory::Low);
            assert_eq!(logps, again, "{name}");
            assert_eq!(all.keys().collect::<Vec<_>>(), low.keys().collect::<Vec<_>>(), "{name}");
            for (parameter, all) in all {
                assert!(all.iter().any(|value| *value != 0.0), "{name} {parameter}");
                assert!(all == low[&parameter], "{name} {parameter}");
            }
        }
    }
}
