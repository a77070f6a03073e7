//! Loads models, and computes log-probabilities and logits with them.

use burn::tensor::{Device, Gradients, Tensor};

use super::architectures::{CausalLm, Described};
use super::batch::PackedBatch;
use super::checkpoint::adapter::Stored;
use super::checkpoint::source::ModelSource;
use super::device::DeviceSpec;
use super::layers::cache::KvCache;
use super::layers::lora::Lora;
use super::layers::overlay::{Overlay, Training};
use super::layers::parameters::Parameters;
use super::layers::visit;
use super::layers::weight::{Head, WeightFormat};
use super::room::on_device;
use crate::error::{Error, Result};
use crate::kernels::precision::Precision;
use crate::kernels::token_kl::Compared;

impl CausalLm {
    /// Loads or initialises the model on `device`, with the adapter of the source merged.
    ///
    /// # Errors
    /// A model that is not supported; a checkpoint that cannot be read, lacks a tensor or has one too many.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        Self::frozen(source, WeightFormat::Plain, device)
    }

    /// As [`Self::load`], with the weights of products in `format`. Only [`WeightFormat::Plain`] can train.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn frozen(source: &ModelSource, format: WeightFormat, device: &Device) -> Result<Self> {
        let stored = source.adapter_folder().map(Stored::open).transpose()?;
        Self::load_with(source, stored.map_or(Overlay::Nothing, Overlay::Merged), format, device)
    }

    /// Loads the frozen model; returns its device, and the precision in use: f32 if processor and device have no products in the
    /// requested one.
    ///
    /// # Errors
    /// As for [`Self::load`], and a device that cannot be opened.
    pub fn open(source: &ModelSource, device: DeviceSpec, precision: Precision) -> Result<(Self, Device, Precision)> {
        let opened = device.open()?;
        let format = WeightFormat::frozen(device, &opened, precision);
        if format.precision() != precision {
            tracing::warn!("{source}: no products in `{precision}` on this processor and device; computing in f32");
        }
        let model = on_device(device, || Self::frozen(source, format, &opened))?;
        Ok((model, opened, format.precision()))
    }

    /// The precision that [`Self::open`] uses on `device` where `precision` is requested.
    ///
    /// # Errors
    /// A device that cannot be opened.
    pub fn arithmetic(device: DeviceSpec, precision: Precision) -> Result<Precision> {
        match precision {
            // Every device has products in f32.
            Precision::F32 => Ok(Precision::F32),
            requested => Ok(WeightFormat::frozen(device, &device.open()?, requested).precision()),
        }
    }

    /// As [`Self::arithmetic`], of passes with gradients: on `cpu` they are f32.
    ///
    /// # Errors
    /// A device that cannot be opened.
    pub fn training_arithmetic(device: DeviceSpec, precision: Precision) -> Result<Precision> {
        match device {
            DeviceSpec::Cpu => Ok(Precision::F32),
            _ => Self::arithmetic(device, precision),
        }
    }

    /// Loads the frozen model with adapters to train: those of the source, or new ones initialised from `seed`.
    ///
    /// # Errors
    /// As for [`Self::load`], and settings that do not fit the model or its adapter.
    pub fn load_adapted(source: &ModelSource, lora: &Lora, seed: u64, device: &Device) -> Result<Self> {
        Self::adapted(source, lora, seed, WeightFormat::Plain, device)
    }

    /// As [`Self::load_adapted`], with the frozen weights in `format`: plain, or bf16.
    ///
    /// # Errors
    /// As for [`Self::load_adapted`].
    pub fn adapted(
        source: &ModelSource,
        lora: &Lora,
        seed: u64,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self> {
        if source.base_folder()?.is_none() && !lora.merge {
            let message =
                "lora: adapters must name the folder of their base, and this model has none; set `merge: true`";
            return Err(Error::model(source, message));
        }
        let start = source.adapter_folder().map(Stored::open).transpose()?;
        let Described { sizes, names, .. } = source.describe()?;
        let training = Training::new(source.to_string(), lora.clone(), sizes.layers, names.head, seed, start)?;
        Self::load_with(source, Overlay::Trained(training), format, device)
    }

    fn load_with(source: &ModelSource, overlay: Overlay, format: WeightFormat, device: &Device) -> Result<Self> {
        let described = source.describe()?;
        let mut parameters = Parameters::open(source, described.initializer_range, overlay, format, device)?;
        let model = described.build(&mut parameters)?;
        parameters.finish()?;
        Ok(model)
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.body().head_shape()[0]
    }

    /// Size of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.body().head_shape()[1]
    }

    /// The largest number of positions; `None` if positions are computed, not learned.
    pub fn position_limit(&self) -> Option<usize> {
        self.body().position_limit()
    }

    /// The output head, `[vocabulary, width]`.
    pub(super) fn head(&self) -> Head {
        self.body().head()
    }

    /// Log-probabilities `[batch.targets.len()]` of the batch's needed tokens, in the batch's order.
    ///
    /// All ids must be smaller than [`Self::vocab_size`], all positions than [`Self::position_limit`].
    pub fn token_logps(&self, batch: &PackedBatch, device: &Device) -> Tensor<1> {
        self.logps_of(self.hidden(batch, device), batch)
    }

    /// As [`Self::token_logps`], from the hidden states of the batch ([`Self::hidden`]).
    pub fn logps_of(&self, hidden: Tensor<2>, batch: &PackedBatch) -> Tensor<1> {
        self.head().token_logps(hidden, batch.staged().targets.clone())
    }

    /// As [`Self::logps_of`], with the log-probabilities and the divergence of `reference`, which has the same vocabulary.
    pub fn compared(&self, hidden: Tensor<2>, reference: &Self, batch: &PackedBatch, device: &Device) -> Compared {
        let inner = device.clone().without_autodiff();
        let other = (reference.head(), reference.hidden(batch, &inner));
        self.head().token_kl(hidden, other, batch.staged().targets.clone())
    }

    /// Logits `[batch.rows.len(), vocabulary]` for the next token at the needed rows, of which there is at least one. Rows attend to
    /// their sequence in `cache`, and are appended to it.
    pub fn next_logits(&self, batch: &PackedBatch, cache: &mut KvCache, device: &Device) -> Tensor<2> {
        self.head().logits(self.needed(batch, Some(cache), device))
    }

    /// An empty key-value cache for this model on `device`.
    pub fn cache(&self, device: &Device) -> KvCache {
        KvCache::new(self.body().layers(), device)
    }

    /// Calls `visit` with every parameter's checkpoint name and tensor, flattened, in a fixed order.
    pub fn for_each_parameter(&self, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        visit::for_each(self, visit);
    }

    /// Removes the gradient of every trained parameter from `gradients` and passes it on: checkpoint name and flat values.
    pub fn take_gradients(&self, gradients: &mut Gradients, take: impl FnMut(&str, Tensor<1>)) {
        visit::take_gradients(self, gradients, take);
    }

    /// Replaces every parameter by the result of `replace` for its checkpoint name and flat values.
    pub fn map_parameters(self, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        visit::map(self, replace)
    }
}
