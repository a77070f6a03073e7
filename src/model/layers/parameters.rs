//! Parameters by their checkpoint names, from safetensors or a seeded generator.

use std::collections::BTreeSet;
use std::iter;

use burn::module::Param;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

use super::lora::Adapter;
use super::overlay::{Overlay, merge};
use super::random::random;
use super::weight::{Weight, WeightFormat};
use crate::error::{Error, Result};
use crate::kernels::layout::Layout;
use crate::kernels::packed::Packed;
use crate::kernels::precision::Precision;
use crate::model::checkpoint::names::shorten;
use crate::model::checkpoint::source::{ModelSource, Weights};
use crate::model::checkpoint::tensors::Checkpoint;

/// The parameters of a model that is being loaded.
#[derive(Debug)]
pub struct Parameters {
    source: String,
    origin: Origin,
    format: WeightFormat,
    device: Device,
    used: BTreeSet<String>,
    overlay: Overlay,
    /// A prefix of the model's names that the names in the checkpoint lack.
    dropped_prefix: Option<&'static str>,
    /// Whether the device is another than `cpu` and has bf16.
    takes_bf16: bool,
}

/// The numbers of a tensor, on the host.
enum Numbers {
    Values(Vec<f32>),
    /// As the checkpoint stores them.
    Stored(TensorData),
}

/// Buffers of old checkpoints that are not parameters: masks, and rotary frequencies, which follow from config.json.
const BUFFERS: [&str; 5] =
    [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];

#[derive(Debug)]
enum Origin {
    Checkpoint(Checkpoint),
    Init { seed: u64, normal: Normal<f32> },
}

impl Parameters {
    /// Opens the source. Weights of products are converted to `format`; new ones have the standard deviation `initializer_range`.
    pub(in crate::model) fn open(
        source: &ModelSource,
        initializer_range: f64,
        overlay: Overlay,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self> {
        let origin = match &source.weights {
            Weights::Folder(folder) => {
                Origin::Checkpoint(Checkpoint::open(source.base_folder()?.as_ref().unwrap_or(folder))?)
            }
            Weights::Init { seed, .. } => {
                let normal = Normal::new(0.0, initializer_range as f32);
                let normal = normal.map_err(|error| Error::model(source, format!("initializer_range: {error}")))?;
                Origin::Init { seed: *seed, normal }
            }
        };
        let takes_bf16 = *device != Device::flex() && device.supports_dtype(DType::BF16);
        let (source, device) = (source.to_string(), device.clone());
        Ok(Self { source, origin, format, device, used: BTreeSet::new(), overlay, dropped_prefix: None, takes_bf16 })
    }

    /// An error about config.json.
    pub fn wrong_config(&self, message: &str) -> Error {
        Error::model(&self.source, format!("config.json: {message}"))
    }

    /// Accepts a checkpoint without the output head, whose names lack `prefix`.
    pub fn optional_prefix(&mut self, prefix: &'static str) {
        if let Origin::Checkpoint(checkpoint) = &self.origin
            && !checkpoint.names().any(|name| name.starts_with(prefix))
        {
            self.dropped_prefix = Some(prefix);
        }
    }

    /// A table `[entries, width]`, initialised with normal random numbers.
    pub fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let numbers = match self.stored(name, &shape)? {
            Some(stored) => stored,
            None => Numbers::Values(self.values(name, &shape, Normal::sample_iter)?),
        };
        Ok(self.weight(numbers, shape, Layout::OutIn))
    }

    /// `numbers` in the format.
    fn weight(&self, numbers: Numbers, shape: [usize; 2], layout: Layout) -> Weight {
        let (values, precision) = match (self.format, numbers) {
            (WeightFormat::Packed(precision), Numbers::Values(values)) => (values, precision),
            (WeightFormat::Bf16, numbers) => return Weight::Plain(self.param(numbers, shape, FloatDType::BF16)),
            (_, numbers) => return Weight::Plain(self.param(numbers, shape, FloatDType::F32)),
        };
        // bf16x2 promises that no weight is rounded, so weights that bf16 cannot represent stay in f32.
        let exact = || values.iter().all(|value| value.to_bits() & 0xffff == 0);
        let precision = match precision {
            Precision::Bf16x2 if !exact() => Precision::F32,
            precision => precision,
        };
        let [rows, columns] = shape;
        let size = match layout {
            Layout::OutIn => [rows, columns],
            Layout::InOut => [columns, rows],
        };
        Packed::shared(&values, size, layout, precision).into()
    }

    /// A vector, initialised with ones.
    pub fn ones(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        let values = self.values(name, &[size], |_, _| iter::repeat(1.0))?;
        Ok(self.param(Numbers::Values(values), [size], FloatDType::F32))
    }

    /// A vector, initialised with zeros.
    pub fn zeros(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        let values = self.values(name, &[size], |_, _| iter::repeat(0.0))?;
        Ok(self.param(Numbers::Values(values), [size], FloatDType::F32))
    }

    /// Allows the tensor `name` in the checkpoint although it is not used, such as the copy of a tied head.
    pub fn ignore(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// The weight of the linear layer `name`, with the stored adapter merged, and the adapter to train on it.
    pub(super) fn linear(
        &mut self,
        name: &str,
        [input, output]: [usize; 2],
        layout: Layout,
    ) -> Result<(Weight, Option<Adapter>)> {
        let shape = match layout {
            Layout::OutIn => [output, input],
            Layout::InOut => [input, output],
        };
        let (tensor, mut factors, mut adapter) = (format!("{name}.weight"), None, None);
        match &mut self.overlay {
            Overlay::Nothing => {}
            Overlay::Merged(stored) => factors = stored.factors(name, [input, output])?,
            Overlay::Trained(training) => adapter = training.adapter(name, [input, output], &self.device)?,
        }
        let stored = if factors.is_none() { self.stored(&tensor, &shape)? } else { None };
        let numbers = match stored {
            Some(stored) => stored,
            None => {
                let mut values = self.values(&tensor, &shape, Normal::sample_iter)?;
                if let Some(factors) = factors {
                    merge(factors, &mut values, layout);
                }
                Numbers::Values(values)
            }
        };
        Ok((self.weight(numbers, shape, layout), adapter))
    }

    /// The name of the tensor in the checkpoint, which is used from now on.
    fn name<'n>(&mut self, name: &'n str) -> &'n str {
        let name = self.dropped_prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        self.used.insert(name.to_owned());
        name
    }

    /// The tensor as the checkpoint stores it, if that is bf16 and another device than `cpu` takes it: the copy to the device is the
    /// only one.
    fn stored(&mut self, name: &str, shape: &[usize]) -> Result<Option<Numbers>> {
        let name = self.name(name);
        match &self.origin {
            Origin::Checkpoint(checkpoint) if self.takes_bf16 => {
                let bytes = checkpoint.bf16(name, shape)?;
                Ok(bytes.map(|bytes| Numbers::Stored(TensorData::from_bytes_vec(bytes, shape.to_vec(), DType::BF16))))
            }
            _ => Ok(None),
        }
    }

    fn values<I: Iterator<Item = f32>>(
        &mut self,
        name: &str,
        shape: &[usize],
        init: impl FnOnce(Normal<f32>, ChaCha8Rng) -> I,
    ) -> Result<Vec<f32>> {
        let name = self.name(name);
        match &self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.tensor(name, shape),
            Origin::Init { seed, normal } => {
                Ok(init(*normal, random(*seed, name)).take(shape.iter().product()).collect())
            }
        }
    }

    /// A parameter of type `dtype`, frozen if adapters train.
    fn param<const D: usize>(&self, numbers: Numbers, shape: [usize; D], dtype: FloatDType) -> Param<Tensor<D>> {
        let data = match numbers {
            Numbers::Stored(data) => data,
            Numbers::Values(values) if dtype == FloatDType::BF16 => {
                let narrow = |value: &f32| bf16::from_f32(*value);
                TensorData::new(values.par_iter().with_min_len(1 << 16).map(narrow).collect::<Vec<_>>(), shape)
            }
            Numbers::Values(values) => TensorData::new(values, shape),
        };
        let (plain, sent) = (self.device.clone().without_autodiff(), data.dtype());
        let tensor = Tensor::<D>::from_data(data, (&plain, sent)).cast(dtype);
        let frozen = matches!(self.overlay, Overlay::Trained(_));
        let tensor = if self.device.is_autodiff() && !frozen { tensor.autodiff() } else { tensor };
        Param::from_tensor(tensor).set_require_grad(!frozen)
    }

    /// Checks that every tensor of the checkpoint and of the adapter was used.
    pub fn finish(self) -> Result<()> {
        self.overlay.finish()?;
        let Origin::Checkpoint(checkpoint) = &self.origin else { return Ok(()) };
        let buffer = |name: &str| BUFFERS.iter().any(|buffer| format!(".{name}").ends_with(buffer));
        let unused = checkpoint.names().filter(|name| !self.used.contains(*name) && !buffer(name));
        let unused: Vec<&str> = unused.collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!("tensors that config.json does not account for: {}", shorten(&unused));
        Err(Error::model(self.source, message))
    }
}
