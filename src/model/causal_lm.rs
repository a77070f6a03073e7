//! A model loaded, and what is asked of it: log-probabilities, logits, its parameters by name.

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
use super::layers::weight::{Head, Kept};
use crate::error::{Error, Result};
use crate::kernels::precision::Precision;
use crate::kernels::token_kl::Compared;

impl CausalLm {
    /// Reads or initialises the model on `device`, with the source's adapter merged into it. Every tensor of the
    /// checkpoint must be used, none may be missing.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        Self::frozen(source, Kept::Plain, device)
    }

    /// As [`Self::load`], with the weights of all products `kept` in some other way, which does not train.
    pub fn frozen(source: &ModelSource, kept: Kept, device: &Device) -> Result<Self> {
        let stored = source.adapter_folder().map(Stored::open).transpose()?;
        Self::load_with(source, stored.map_or(Overlay::Nothing, Overlay::Merged), kept, device)
    }

    /// The frozen model on its device, and the numbers that it computes in: f32 where there are no others.
    ///
    /// # Errors
    /// A checkpoint that cannot be read.
    pub fn open(source: &ModelSource, device: DeviceSpec, precision: Precision) -> Result<(Self, Device, Precision)> {
        let opened = device.open()?;
        let kept = Kept::frozen(device, &opened, precision);
        if kept.precision() != precision {
            tracing::warn!("{source}: no bf16 products on this processor and device; computing in f32");
        }
        let model = Self::frozen(source, kept, &opened)?;
        Ok((model, opened, kept.precision()))
    }

    /// The numbers that frozen models asked for `precision` compute in on `device`: what [`Self::open`] falls back to where
    /// there are no others.
    ///
    /// # Errors
    /// A device that this build cannot open.
    pub fn arithmetic(device: DeviceSpec, precision: Precision) -> Result<Precision> {
        match precision {
            // Every device has them.
            Precision::F32 => Ok(Precision::F32),
            wanted => Ok(Kept::frozen(device, &device.open()?, wanted).precision()),
        }
    }

    /// The frozen model with adapters that train: those of the source, else new ones from `seed`.
    pub fn load_adapted(source: &ModelSource, lora: &Lora, seed: u64, device: &Device) -> Result<Self> {
        if source.base_folder()?.is_none() && !lora.merge {
            let message =
                "lora: adapters must name the folder of their base, and this model has none; set `merge: true`";
            return Err(Error::model(source, message));
        }
        let start = source.adapter_folder().map(Stored::open).transpose()?;
        let Described { sizes, names, .. } = source.describe()?;
        let training = Training::new(source.to_string(), lora.clone(), sizes.layers, names.head, seed, start)?;
        Self::load_with(source, Overlay::Trained(training), Kept::Plain, device)
    }

    fn load_with(source: &ModelSource, overlay: Overlay, kept: Kept, device: &Device) -> Result<Self> {
        let described = source.describe()?;
        let mut parameters = Parameters::open(source, described.initializer_range, overlay, kept, device)?;
        let model = described.build(&mut parameters)?;
        parameters.finish()?;
        Ok(model)
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.head().rows()
    }

    /// Size of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.head().width()
    }

    /// The longest sequence that the model can take; none where positions are computed.
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

    /// As [`Self::token_logps`], of the batch's hidden states ([`Self::hidden`]).
    pub fn logps_of(&self, hidden: Tensor<2>, batch: &PackedBatch) -> Tensor<1> {
        self.head().token_logps(hidden, batch.targets.as_slice().into())
    }

    /// As [`Self::logps_of`], beside what `reference`, which has the same vocabulary, says about the same tokens.
    pub fn compared(&self, hidden: Tensor<2>, reference: &Self, batch: &PackedBatch, device: &Device) -> Compared {
        let inner = device.clone().without_autodiff();
        let other = (reference.head(), reference.hidden(batch, &inner));
        self.head().token_kl(hidden, other, batch.targets.as_slice().into())
    }

    /// Logits `[batch.rows.len(), vocabulary]` of the tokens that follow the batch's needed rows, of which there is at least one.
    /// Rows see what `cache` holds of their sequence, and are added to it.
    pub fn next_logits(&self, batch: &PackedBatch, cache: &mut KvCache, device: &Device) -> Tensor<2> {
        self.head().logits(self.needed(batch, Some(cache), device))
    }

    /// An empty cache for the keys and values of its layers.
    pub fn cache(&self) -> KvCache {
        KvCache::new(self.body().layers())
    }

    /// Calls `visit` with every parameter's checkpoint name and tensor, flattened, in a fixed order.
    pub fn for_each_parameter(&self, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        visit::for_each(self, visit);
    }

    /// Takes every trained parameter's gradient out of `gradients`: checkpoint name and flat values.
    pub fn take_gradients(&self, gradients: &mut Gradients, take: impl FnMut(&str, Tensor<1>)) {
        visit::take_gradients(self, gradients, take);
    }

    /// Replaces every parameter by what `replace` makes of its checkpoint name and tensor.
    pub fn map_parameters(self, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        visit::map(self, replace)
    }
}
