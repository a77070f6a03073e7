//! A pass through the layers, and back. The way back needs what every layer computed; where memory is short, only what
//! lies between layers is kept, and each layer is computed once more (Chen et al. 2016, arXiv 1604.06174).

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::architectures::CausalLm;
use super::batch::PackedBatch;
use super::layers::cache::KvCache;

/// What a training pass may keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// What every layer computed: the fastest.
    #[default]
    Normal,
    /// What lies between layers. The same gradients, for one more forward pass.
    Low,
}

impl CausalLm {
    /// The rows of `x` that the batch needs, ready for the head.
    fn select(&self, x: Tensor<2>, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        let rows = TensorData::new(batch.rows.clone(), [batch.rows.len()]);
        let x = x.select(0, Tensor::<1, Int>::from_data(rows, device));
        self.body().norm(x)
    }

    /// Hidden states of the batch's needed rows, ready for the head; with a cache, rows see what it holds of their sequence.
    pub(super) fn needed(&self, batch: &PackedBatch, mut cache: Option<&mut KvCache>, device: &Device) -> Tensor<2> {
        let body = self.body();
        let setting = body.setting(batch, device);
        let mut x = body.embed(batch, device);
        for index in 0..body.layers() {
            x = body.layer(index, x, &setting, cache.as_deref_mut().map(|cache| cache.layer(index)));
        }
        self.select(x, batch, device)
    }

    /// Hidden states of the batch's needed rows, `[batch.rows.len(), width]`, ready for the head.
    pub fn hidden(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        self.needed(batch, None, device)
    }

    /// As [`Self::hidden`], of two models whose first `common` layers, one at least, are the same.
    pub(super) fn hidden_of_both(
        models: [&Self; 2],
        common: usize,
        batch: &PackedBatch,
        device: &Device,
    ) -> [Tensor<2>; 2] {
        let first = models[0].body();
        let setting = first.setting(batch, device);
        let trunk = (0..common).fold(first.embed(batch, device), |x, index| first.layer(index, x, &setting, None));
        models.map(|model| {
            let body = model.body();
            let x = (common..body.layers()).fold(trunk.clone(), |x, index| body.layer(index, x, &setting, None));
            model.select(x, batch, device)
        })
    }

    /// As [`Self::hidden`], with the way back still to come, on a device with autodiff.
    pub fn pass<'a>(&'a self, batch: &'a PackedBatch, device: &'a Device, memory: Memory) -> Pass<'a> {
        let mut between = Vec::new();
        let hidden = if memory == Memory::Low && self.body().layers() > 0 {
            let (model, device) = (self.valid(), device.clone().without_autodiff());
            let body = model.body();
            let setting = body.setting(batch, &device);
            let mut x = body.embed(batch, &device);
            for index in 0..body.layers() {
                x = body.layer(index, x, &setting, None);
                between.push(x.clone());
            }
            Tensor::from_inner(model.select(x, batch, &device)).require_grad()
        } else {
            self.hidden(batch, device)
        };
        Pass { model: self, batch, device, hidden, between }
    }
}

/// A pass that went forward.
pub struct Pass<'a> {
    model: &'a CausalLm,
    batch: &'a PackedBatch,
    device: &'a Device,
    hidden: Tensor<2>,
    /// What each layer gave, `[batch.len(), width]`; empty where the hidden states know their way back.
    between: Vec<Tensor<2>>,
}

impl Pass<'_> {
    /// Hidden states of the batch's needed rows, `[batch.rows.len(), width]`, ready for the head.
    pub fn hidden(&self) -> Tensor<2> {
        self.hidden.clone()
    }

    /// Back-propagates `loss`, one number that follows from the hidden states. `add` gets gradients of the model's and of all
    /// other parameters: once all, or once those of each layer.
    pub fn backward(self, loss: Tensor<1>, mut add: impl FnMut(&mut Gradients)) {
        let Self { model, batch, device, hidden, mut between } = self;
        let mut back = |x: Option<Tensor<2>>, y: Tensor<1>| {
            let mut gradients = y.backward();
            let slope = x.and_then(|x| x.grad_remove(&mut gradients));
            add(&mut gradients);
            slope.map(Tensor::<2>::from_inner)
        };
        if between.is_empty() {
            back(None, loss);
            return;
        }
        let body = model.body();
        let setting = body.setting(batch, device);
        let mut slope = back(Some(hidden), loss);
        // The way back from the final norm, then from each layer, the last one first.
        for index in (0..=body.layers()).rev() {
            let Some(above) = slope else { return };
            let x = between.pop().map(|x| Tensor::from_inner(x).require_grad());
            let input = x.clone().unwrap_or_else(|| body.embed(batch, device));
            let y = match index == body.layers() {
                true => model.select(input, batch, device),
                false => body.layer(index, input, &setting, None),
            };
            slope = back(x, (y * above).sum());
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
        let slopes: Vec<f32> = (0..batch.targets.len()).map(|index| 0.3 - 0.1 * index as f32).collect();
        let slopes = Tensor::<1>::from_data(TensorData::new(slopes, [batch.targets.len()]), &device);
        let values = logps.to_data().try_into_vec().unwrap();
        let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        pass.backward((logps * slopes).sum(), |gradients| {
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

    /// To the last bit, so that a training can change its mind about memory between two steps.
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
