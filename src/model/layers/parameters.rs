//! Parameters by their checkpoint names, from safetensors or a seeded generator.

use std::collections::BTreeSet;
use std::iter;

use burn::module::Param;
use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Tensor, TensorData};
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
use crate::monitor::warn_once;

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
    /// A tensor of the model that the checkpoint has under another name.
    renamed: Option<[String; 2]>,
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
        let (used, dropped_prefix, renamed) = (BTreeSet::new(), None, None);
        Ok(Self { source, origin, format, device, used, overlay, dropped_prefix, renamed, takes_bf16 })
    }

    /// An error about config.json.
    pub fn wrong_config(&self, message: &str) -> Error {
        Error::model(&self.source, format!("config.json: {message}"))
    }

    /// Whether the output head is the table of embeddings, which config.json says by `tied`. As in `transformers`, a checkpoint that
    /// has both and in which they differ is not tied; one that has the head alone has the table under its name.
    pub fn ties(&mut self, tied: bool, embeddings: &str, head: &str) -> bool {
        let Origin::Checkpoint(checkpoint) = &self.origin else { return tied };
        let [own, head] = [embeddings, head].map(|layer| self.name_in_checkpoint(&format!("{layer}.weight")));
        if !tied || checkpoint.shape(&head).is_none() {
            return tied;
        }
        if checkpoint.shape(&own).is_none() {
            self.say(&format!(
                "config.json ties `{own}` to `{head}`, and only the latter is in the checkpoint: it is used for both"
            ));
            self.renamed = Some([own, head]);
            return true;
        }
        if checkpoint.are_equal(&own, &head) {
            self.used.insert(head);
            return true;
        }
        self.say(&format!(
            "config.json ties `{head}` to `{own}`, and the checkpoint has both with different values: they are not tied; \
             `tie_word_embeddings: false` in config.json says so"
        ));
        false
    }

    fn say(&self, message: &str) {
        warn_once(&format!("{}: {message}", self.source));
    }

    /// The name in the checkpoint of the model's tensor `name`.
    fn name_in_checkpoint(&self, name: &str) -> String {
        let name = self.dropped_prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        match &self.renamed {
            Some([own, stored]) if own == name => stored.clone(),
            _ => name.to_owned(),
        }
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
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let numbers = match self.as_stored(name, &shape)? {
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
    ///
    /// # Errors
    /// As [`Self::table`].
    pub fn ones(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        let values = self.values(name, &[size], |_, _| iter::repeat(1.0))?;
        Ok(self.param(Numbers::Values(values), [size], FloatDType::F32))
    }

    /// A vector, initialised with zeros.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub fn zeros(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        let values = self.values(name, &[size], |_, _| iter::repeat(0.0))?;
        Ok(self.param(Numbers::Values(values), [size], FloatDType::F32))
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
        let stored = if factors.is_none() { self.as_stored(&tensor, &shape)? } else { None };
        let numbers = match stored {
            Some(stored) => stored,
            None => {
                let mut values = self.values(&tensor, &shape, Normal::sample_iter)?;
                self.replace(&format!("{name}.base_layer.weight"), &shape, &mut values)?;
                if let Some(factors) = factors {
                    merge(factors, &mut values, layout);
                }
                Numbers::Values(values)
            }
        };
        Ok((self.weight(numbers, shape, layout), adapter))
    }

    /// The name in the checkpoint of the model's tensor `name`, which is used from now on.
    fn use_name(&mut self, name: &str) -> String {
        let stored = self.name_in_checkpoint(name);
        self.used.insert(stored.clone());
        stored
    }

    /// The tensor as the checkpoint stores it, if that is bf16 and another device than `cpu` takes it: the copy to the device is the
    /// only one. An adapter may have a tensor of its own in its place, whose values are compared.
    fn as_stored(&mut self, name: &str, shape: &[usize]) -> Result<Option<Numbers>> {
        let may_differ = match &self.overlay {
            Overlay::Nothing => false,
            Overlay::Merged(_) => true,
            Overlay::Trained(training) => training.start.is_some(),
        };
        if may_differ || !self.takes_bf16 {
            return Ok(None);
        }
        let stored = self.use_name(name);
        match &self.origin {
            Origin::Checkpoint(checkpoint) => {
                let bytes = checkpoint.bf16(&stored, shape)?;
                let bytes = bytes.map(|bytes| Bytes::from_shared(bytes, AllocationProperty::File));
                Ok(bytes.map(|bytes| Numbers::Stored(TensorData::from_bytes(bytes, shape.to_vec(), DType::BF16))))
            }
            Origin::Init { .. } => Ok(None),
        }
    }

    fn values<I: Iterator<Item = f32>>(
        &mut self,
        name: &str,
        shape: &[usize],
        init: impl FnOnce(Normal<f32>, ChaCha8Rng) -> I,
    ) -> Result<Vec<f32>> {
        let stored = self.use_name(name);
        let mut values = match &self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.tensor(&stored, shape)?,
            Origin::Init { seed, normal } => {
                init(*normal, random(*seed, &stored)).take(shape.iter().product()).collect()
            }
        };
        self.replace(name, shape, &mut values)?;
        Ok(values)
    }

    /// Puts the adapter's own tensor `name` in the place of `values`, if it has one: beside an adapted head PEFT stores the
    /// embeddings and the head as they are without the adapter.
    fn replace(&mut self, name: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<()> {
        let (stored, trains) = match &mut self.overlay {
            Overlay::Nothing => return Ok(()),
            Overlay::Merged(stored) => (stored, false),
            Overlay::Trained(training) => match &mut training.start {
                Some(stored) => (stored, true),
                None => return Ok(()),
            },
        };
        let Some(own) = stored.base(name, shape)? else { return Ok(()) };
        if own == *values {
            return Ok(());
        }
        if trains {
            let message =
                format!("the adapter to go on from has a `{name}` of its own, which differs from that of the base");
            return Err(Error::model(&self.source, message));
        }
        *values = own;
        self.say(&format!("`{name}` of the adapter differs from that of the base, and is used in its place"));
        Ok(())
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

    /// Checks that every tensor of the adapter was used, and warns of those of the checkpoint that were not.
    ///
    /// # Errors
    /// Tensors of the adapter that no layer took.
    pub fn finish(self) -> Result<()> {
        self.overlay.finish()?;
        let Origin::Checkpoint(checkpoint) = &self.origin else { return Ok(()) };
        let buffer = |name: &str| BUFFERS.iter().any(|buffer| format!(".{name}").ends_with(buffer));
        let unused = checkpoint.names().filter(|name| !self.used.contains(*name) && !buffer(name));
        let unused: Vec<&str> = unused.collect();
        if unused.is_empty() {
            return Ok(());
        }
        self.say(&format!("tensors that config.json does not account for are ignored: {}", shorten(&unused)));
        Ok(())
    }
}
