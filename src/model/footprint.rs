//! What a model takes of memory, before it is loaded.

use super::architectures::CausalLm;
use super::checkpoint::source::ModelSource;
use super::checkpoint::tensors;
use super::device::DeviceSpec;
use crate::error::Result;

impl ModelSource {
    /// Numbers that the model holds, from the checkpoint's headers.
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

    /// About how many numbers a backward pass keeps for every token: the inputs of a layer's products, norms and
    /// activations. Zero where config.json has not the usual names.
    pub fn activations(&self) -> Result<u64> {
        let config = self.config()?;
        let number = |names: [&str; 2]| names.iter().find_map(|name| config.get(*name)?.as_u64()).unwrap_or(0);
        let width = number(["hidden_size", "n_embd"]);
        let inner = match number(["intermediate_size", "n_inner"]) {
            0 => 4 * width,
            inner => inner,
        };
        Ok(number(["num_hidden_layers", "n_layer"]) * (8 * width + 3 * inner))
    }
}
