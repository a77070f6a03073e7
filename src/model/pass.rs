//! A pass through the layers, and back. The way back needs what every layer computed; where memory is short, only what
//! lies between layers is kept, and each layer is computed once more (Chen et al. 2016, arXiv 1604.06174).

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernels::attention::Segment;
use super::rope::Angles;
use super::{CausalLm, KvCache, PackedBatch};

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

/// What every layer needs to know of a batch.
pub struct Setting {
    /// Who sees whom.
    pub segments: Arc<[Segment]>,
    /// Rotations by position, where the model has them.
    pub angles: Option<Angles>,
}

impl Setting {
    /// Turns every head of every row: x `[rows, heads * head_dim]`.
    pub fn turn(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.angles {
            Some(angles) => angles.turn(x),
            None => x,
        }
    }
}

impl CausalLm {
    /// Layers between the embeddings and the final norm.
    pub(super) fn layers(&self) -> usize {
        match self {
            Self::Decoder(model) => model.layers(),
            Self::GptNeoX(model) => model.layers(),
            Self::Gpt2(model) => model.layers(),
        }
    }

    fn setting(&self, batch: &PackedBatch, device: &Device) -> Setting {
        match self {
            Self::Decoder(model) => model.setting(batch, device),
            Self::GptNeoX(model) => model.setting(batch, device),
            Self::Gpt2(model) => model.setting(batch),
        }
    }

    fn embed(&self, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        match self {
            Self::Decoder(model) => model.embed(batch, device),
            Self::GptNeoX(model) => model.embed(batch, device),
            Self::Gpt2(model) => model.embed(batch, device),
        }
    }

    fn layer(&self, index: usize, x: Tensor<2>, setting: &Setting, cache: Option<&mut KvCache>) -> Tensor<2> {
        let kept = cache.map(|cache| cache.layer(index));
        match self {
            Self::Decoder(model) => model.layer(index, x, setting, kept),
            Self::GptNeoX(model) => model.layer(index, x, setting, kept),
            Self::Gpt2(model) => model.layer(index, x, setting, kept),
        }
    }

    /// The rows of `x` that the batch needs, ready for the head.
    fn select(&self, x: Tensor<2>, batch: &PackedBatch, device: &Device) -> Tensor<2> {
        let rows = TensorData::new(batch.rows.clone(), [batch.rows.len()]);
        let x = x.select(0, Tensor::<1, Int>::from_data(rows, device));
        match self {
            Self::Decoder(model) => model.norm(x),
            Self::GptNeoX(model) => model.norm(x),
            Self::Gpt2(model) => model.norm(x),
        }
    }

    /// Hidden states of the batch's needed rows, ready for the head; with a cache, rows see what it holds of their sequence.
    pub(super) fn needed(&self, batch: &PackedBatch, mut cache: Option<&mut KvCache>, device: &Device) -> Tensor<2> {
        let setting = self.setting(batch, device);
        let mut x = self.embed(batch, device);
        for index in 0..self.layers() {
            x = self.layer(index, x, &setting, cache.as_deref_mut());
        }
        self.select(x, batch, device)
    }

    /// A pass whose [`Pass::backward`] is still to come, on a device with autodiff.
    pub fn pass<'a>(&'a self, batch: &'a PackedBatch, device: &'a Device, memory: Memory) -> Pass<'a> {
        let kept = match memory {
            Memory::Low if self.layers() > 0 => {
                let (model, device) = (self.valid(), device.clone().without_autodiff());
                let setting = model.setting(batch, &device);
                let mut between = Vec::with_capacity(model.layers());
                let mut x = model.embed(batch, &device);
                for index in 0..model.layers() {
                    x = model.layer(index, x, &setting, None);
                    between.push(x.clone());
                }
                let x = model.select(x, batch, &device);
                Kept::Between { between, logps: model.head().token_logps(x, batch.targets.as_slice().into()) }
            }
            _ => Kept::All(self.token_logps(batch, device)),
        };
        Pass { model: self, batch, device, kept }
    }
}

/// A pass that went forward.
pub struct Pass<'a> {
    model: &'a CausalLm,
    batch: &'a PackedBatch,
    device: &'a Device,
    kept: Kept,
}

enum Kept {
    /// Everything, in the graph of these log-probabilities.
    All(Tensor<1>),
    /// What each layer gives, `[batch.len(), width]`.
    Between { between: Vec<Tensor<2>>, logps: Tensor<1> },
}

impl Pass<'_> {
    /// Log-probabilities `[batch.targets.len()]` of the batch's needed tokens, without autodiff.
    pub fn logps(&self) -> Tensor<1> {
        match &self.kept {
            Kept::All(logps) => logps.clone().inner(),
            Kept::Between { logps, .. } => logps.clone(),
        }
    }

    /// Back-propagates `sum(slopes_i logp_i)`, one slope a log-probability. `add` gets gradients of the model's parameters:
    /// once all, or once those of each layer.
    pub fn backward(self, slopes: Vec<f32>, mut add: impl FnMut(&mut Gradients)) {
        let Self { model, batch, device, kept } = self;
        let slopes = Tensor::<1>::from_data(TensorData::new(slopes, [batch.targets.len()]), device);
        let mut between = match kept {
            Kept::All(logps) => return add(&mut (logps * slopes).sum().backward()),
            Kept::Between { between, .. } => between,
        };
        let setting = model.setting(batch, device);
        let mut below = || between.pop().map(|x| Tensor::from_inner(x).require_grad());
        let mut back = |x: Option<Tensor<2>>, y: Tensor<1>| {
            let mut gradients = y.backward();
            let slope = x.and_then(|x| x.grad_remove(&mut gradients));
            add(&mut gradients);
            slope.map(Tensor::<2>::from_inner)
        };
        let mut x = below();
        let Some(last) = x.clone() else { return };
        let logps = model.head().token_logps(model.select(last, batch, device), batch.targets.as_slice().into());
        let mut slope = back(x, (logps * slopes).sum());
        for index in (0..model.layers()).rev() {
            let Some(above) = slope else { return };
            x = below();
            let input = x.clone().unwrap_or_else(|| model.embed(batch, device));
            slope = back(x, (model.layer(index, input, &setting, None) * above).sum());
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
        let logps = pass.logps().into_data().try_into_vec().unwrap();
        let slopes = (0..batch.targets.len()).map(|index| 0.3 - 0.1 * index as f32).collect();
        let mut sums: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        pass.backward(slopes, |gradients| {
            model.take_gradients(gradients, |name, gradient| {
                let values: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
                match sums.get_mut(name) {
                    Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                    None => drop(sums.insert(name.to_owned(), values)),
                }
            });
        });
        (logps, sums)
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
