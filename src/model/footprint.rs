//! The memory that a model needs, estimated before it is loaded, and the memory that there is.

#[cfg(feature = "tch")]
use std::collections::BTreeMap;
use std::fs;
#[cfg(feature = "tch")]
use std::sync::{Mutex, PoisonError};

use super::architectures::CausalLm;
use super::checkpoint::names::layer_of;
use super::checkpoint::source::ModelSource;
use super::checkpoint::tensors::{self, Checkpoint};
use super::device::DeviceSpec;
use super::layers::lora::Lora;
use super::pass::Memory;
use super::sizes::Sizes;
use crate::error::Result;
#[cfg(feature = "tch")]
use crate::kernels::free_on_cuda;
use crate::kernels::token_logps;

impl ModelSource {
    /// The number of parameters, from the headers of the checkpoint. A model that is initialised from a configuration is built
    /// and counted.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, or a model that is not supported.
    pub fn parameters(&self) -> Result<u64> {
        match self.base_folder()? {
            Some(folder) => tensors::parameters(&folder),
            None => {
                let mut count = 0;
                let model = CausalLm::load(self, &DeviceSpec::Cpu.open()?)?;
                model.for_each_parameter(|_, _, shape| count += shape.iter().product::<usize>() as u64);
                Ok(count)
            }
        }
    }

    /// The number of parameters of the adapters that `lora` describes. 0 for a model that is initialised from a configuration.
    ///
    /// # Errors
    /// As for [`Self::parameters`].
    pub fn adapter_parameters(&self, lora: &Lora) -> Result<u64> {
        let Some(folder) = self.base_folder()? else { return Ok(0) };
        let described = self.describe()?;
        let checkpoint = Checkpoint::open(&folder)?;
        let first = described.sizes.layers.saturating_sub(lora.last_layers.unwrap_or(described.sizes.layers));
        let sum = checkpoint.names().filter_map(|tensor| {
            let name = tensor.strip_suffix(".weight")?;
            let [rows, columns] = *checkpoint.shape(tensor)? else { return None };
            let is_table = name.rsplit('.').next() == Some(described.names.embeddings);
            let adapted = !is_table
                && lora.targets(name, described.names.head)
                && layer_of(name).is_none_or(|layer| layer >= first);
            adapted.then_some((lora.r * (rows + columns)) as u64)
        });
        Ok(sum.sum())
    }
}

impl Sizes {
    /// About how many bytes passes with gradients keep of every token, where a number between products has `bytes` bytes. With little
    /// memory, hidden states in f32 between the layers, and what one layer keeps, with its gradients.
    pub fn kept_of_a_token(&self, memory: Memory, bytes: u64) -> u64 {
        let (layers, layer) = (self.layers as u64, self.activations() * bytes);
        match memory {
            Memory::Normal => layers * layer,
            Memory::Low => layers * self.width as u64 * size_of::<f32>() as u64 + 2 * layer,
        }
    }

    /// About how many bytes passes without gradients keep of every token: those of a few layers, of which one is computed at a time.
    pub fn passing_of_a_token(&self, bytes: u64) -> u64 {
        self.kept_of_a_token(Memory::Normal, bytes).div_ceil(8)
    }

    /// How many bytes a cache has for every token whose keys and values are in it. It has room for as many more.
    pub fn cached_of_a_token(&self, bytes: u64) -> u64 {
        2 * 2 * (self.layers * self.kv_heads * self.head_dim) as u64 * bytes
    }

    /// The bytes of the head's logits at a time, with what is computed of them, in a pass of `tokens` tokens. On `cpu` they are never
    /// stored.
    pub fn logits(&self, device: DeviceSpec, tokens: usize) -> u64 {
        match device {
            DeviceSpec::Cpu => 0,
            _ => (2 * size_of::<f32>() * token_logps::ROWS.min(tokens) * self.vocabulary) as u64,
        }
    }
}

impl DeviceSpec {
    /// The bytes of memory that are free: on a device that computes on the processor, those of the machine; on a CUDA device, those that
    /// were free when this process first asked. What was taken since is this process's own, much of it kept by LibTorch for the next
    /// tensors. `None` where the device does not say.
    pub fn free_memory(self) -> Option<u64> {
        match self {
            #[cfg(feature = "tch")]
            Self::LibTorchCuda(index) => first_free_on_cuda(index),
            device if device.is_processor() => free_of_machine(),
            _ => None,
        }
    }
}

#[cfg(feature = "tch")]
fn first_free_on_cuda(index: usize) -> Option<u64> {
    static FREE: Mutex<BTreeMap<usize, Option<u64>>> = Mutex::new(BTreeMap::new());
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    *free.entry(index).or_insert_with(|| free_on_cuda(index))
}

/// What Linux says is available, within the limit of the control group.
fn free_of_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let number = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = number("memory.max").zip(number("memory.current")).map(|(most, used)| most.saturating_sub(used));
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::super::sizes::FeedForward;
    use super::*;

    /// The shape of Llama 3 8B: keys and values in bf16 are 128 KiB a token.
    #[test]
    fn a_cache_keeps_two_vectors_a_layer() {
        let sizes = Sizes {
            vocabulary: 128_256,
            width: 4096,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            inner: 14_336,
            feed_forward: FeedForward::Gated,
            positions: 8192,
        };
        assert_eq!(sizes.cached_of_a_token(2), 2 * (128 << 10));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_machine_says_how_much_is_free() {
        let free = DeviceSpec::Cpu.free_memory().unwrap();
        assert!(free > 1 << 20, "{free}");
        assert_eq!(DeviceSpec::Cuda(0).free_memory(), None);
    }
}
