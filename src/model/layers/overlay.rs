//! What is applied to the weights of a model as it is loaded: nothing, an adapter to merge, or adapters to train.

use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_distr::{Distribution, Uniform};
use rayon::prelude::*;

use super::lora::{Adapter, Lora};
use super::random::random;
use crate::error::{Error, Result};
use crate::kernels::layout::Layout;
use crate::model::checkpoint::adapter::{Factors, Stored, scale};
use crate::model::checkpoint::names::layer_of;

/// Nothing, a stored adapter to merge, or adapters to train.
#[derive(Debug)]
pub(in crate::model) enum Overlay {
    Nothing,
    Merged(Stored),
    Trained(Training),
}

impl Overlay {
    /// Checks that every part of an adapter was used.
    pub(in crate::model) fn finish(&self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Merged(stored) => stored.finish(),
            Self::Trained(training) => training.finish(),
        }
    }
}

/// Adapters to train on a model that is being loaded.
#[derive(Debug)]
pub(in crate::model) struct Training {
    model: String,
    lora: Lora,
    /// The first layer that is adapted, counted from 0.
    first_layer: usize,
    /// The name of the output head.
    head: &'static str,
    seed: u64,
    /// The adapter that training continues from.
    pub(super) start: Option<Stored>,
    adapted: Vec<String>,
    /// The last components of the names of all linear layers.
    layers: BTreeSet<String>,
}

impl Training {
    /// Adapters as `lora` describes them, on a model with `layers` layers and the output head `head`, continued from `start` if
    /// given.
    pub(in crate::model) fn new(
        model: String,
        lora: Lora,
        layers: usize,
        head: &'static str,
        seed: u64,
        start: Option<Stored>,
    ) -> Result<Self> {
        let last = lora.last_layers.unwrap_or(layers);
        let first_layer = layers.saturating_sub(last);
        let training =
            Self { model, lora, first_layer, head, seed, start, adapted: Vec::new(), layers: BTreeSet::new() };
        if last > layers {
            return Err(training.wrong(format!("last_layers is {last}, but the model has {layers} layers")));
        }
        match (training.lora.problem(), &training.start) {
            (Some(problem), _) => Err(training.wrong(problem)),
            (None, Some(start)) if (start.alpha, start.rslora) != (training.lora.alpha, training.lora.rslora) => {
                let (alpha, rslora) = (start.alpha, start.rslora);
                Err(training.wrong(format!("the adapter to go on from has alpha {alpha} and rslora {rslora}")))
            }
            _ => Ok(training),
        }
    }

    fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::model(&self.model, format!("lora: {message}"))
    }

    /// The adapter of the layer `name`, if it is adapted.
    pub(in crate::model) fn adapter(
        &mut self,
        name: &str,
        size: [usize; 2],
        device: &Device,
    ) -> Result<Option<Adapter>> {
        self.layers.insert(name.rsplit('.').next().unwrap_or(name).to_owned());
        let targeted =
            self.lora.targets(name, self.head) && layer_of(name).is_none_or(|layer| layer >= self.first_layer);
        let stored = self.start.as_mut().map(|start| start.factors(name, size)).transpose()?;
        let factors = match stored {
            None if targeted => self.fresh(name, size),
            Some(Some(factors)) if targeted && factors.r == self.lora.r => factors,
            Some(Some(factors)) if targeted => {
                return Err(self.wrong(format!("the adapter to go on from has rank {} on `{name}`", factors.r)));
            }
            Some(None) if targeted => {
                return Err(self.wrong(format!("the adapter to go on from leaves `{name}` alone")));
            }
            Some(Some(_)) => {
                return Err(self.wrong(format!(
                    "the adapter to go on from changes `{name}`; `targets` and `last_layers` must reach it"
                )));
            }
            None | Some(None) => return Ok(None),
        };
        self.adapted.push(name.to_owned());
        let [input, output] = size;
        let param = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::<2>::from_data(TensorData::new(values, shape), device))
        };
        let (a, b) = (param(factors.a, [factors.r, input]), param(factors.b, [output, factors.r]));
        Ok(Some(Adapter::new(a, b, factors.scale)))
    }

    /// New factors as in PEFT: A uniform in `±1/√in`, B zero, so that the adapted layer is unchanged at the start.
    fn fresh(&self, name: &str, [input, output]: [usize; 2]) -> Factors {
        let r = self.lora.r;
        let bound = 1.0 / (input as f32).sqrt();
        let uniform = Uniform::new_inclusive(-bound, bound).expect("the bounds are finite and in order");
        let a = uniform.sample_iter(random(self.seed, &format!("{name}.lora_A"))).take(r * input).collect();
        let scale = scale(self.lora.alpha, r, self.lora.rslora);
        Factors { a, b: vec![0.0; output * r], r, size: [input, output], scale }
    }

    fn finish(&self) -> Result<()> {
        let missed = |target: &&String| {
            !self.adapted.iter().any(|name| name == *target || name.ends_with(&format!(".{target}")))
        };
        if let Some(target) = self.lora.targets.iter().flatten().find(missed) {
            let layers = self.layers.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(self.wrong(format!("targets: the model has no linear layer `{target}`; there are {layers}")));
        }
        self.start.as_ref().map_or(Ok(()), Stored::finish)
    }
}

/// Adds `s A B` to the values of a weight.
pub(super) fn merge(factors: Factors, weight: &mut [f32], layout: Layout) {
    let (device, [input, output]) = (Device::flex(), factors.size);
    let matrix = |values, shape| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
    let delta = matrix(factors.b, [output, factors.r]).matmul(matrix(factors.a, [factors.r, input])) * factors.scale;
    let delta = match layout {
        Layout::OutIn => delta,
        Layout::InOut => delta.transpose(),
    };
    let delta = delta.into_data();
    let delta = delta.as_slice::<f32>().expect("flex computes in f32");
    weight.par_iter_mut().zip(delta).for_each(|(weight, delta)| *weight += delta);
}
