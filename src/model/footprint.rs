//! The memory that a model needs, estimated before it is loaded.

use super::architectures::CausalLm;
use super::checkpoint::source::ModelSource;
use super::checkpoint::tensors;
use super::device::DeviceSpec;
use crate::error::Result;

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

    /// About how many activations a backward pass keeps for every token.
    ///
    /// # Errors
    /// As for [`Self::describe`].
    pub fn activations(&self) -> Result<u64> {
        Ok(self.describe()?.sizes.activations())
    }
}
