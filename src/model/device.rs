//! The devices that models run on: `device:` and `devices:` in a pipeline file.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
#[cfg(feature = "tch")]
use crate::kernels::cuda_devices;

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// `cpu`: burn's flex back end with this crate's kernels.
    #[default]
    Cpu,
    /// `libtorch`: LibTorch on the CPU.
    LibTorch,
    /// `libtorch:cuda:N`: LibTorch on a CUDA device.
    LibTorchCuda(usize),
    /// `cuda:N`: CubeCL on a CUDA device.
    Cuda(usize),
    /// `vulkan`: CubeCL on the default Vulkan device.
    Vulkan,
    /// `vulkan:cpu`: CubeCL on a software Vulkan device.
    VulkanCpu,
}

/// What a pipeline file says of devices: one of them, or all of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(
    with = "String",
    extend("examples" = ["cpu", "libtorch", "libtorch:cuda:0", "libtorch:cuda:*", "cuda:0", "vulkan", "vulkan:cpu"])
)]
pub enum DeviceChoice {
    /// A device.
    One(DeviceSpec),
    /// `libtorch:cuda:*`: every CUDA device that LibTorch finds.
    EveryCuda,
}

const CHOICES: &str = "cpu, libtorch, libtorch:cuda:N, libtorch:cuda:*, cuda:N, vulkan, vulkan:cpu";
const EVERY_CUDA: &str = "libtorch:cuda:*";

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown device `{text}`; devices are {CHOICES}");
        let number = |digits: &str| digits.parse().map_err(|_| unknown());
        match text {
            "cpu" => Ok(Self::Cpu),
            "libtorch" => Ok(Self::LibTorch),
            "vulkan" => Ok(Self::Vulkan),
            "vulkan:cpu" => Ok(Self::VulkanCpu),
            _ => match (text.strip_prefix("libtorch:cuda:"), text.strip_prefix("cuda:")) {
                (Some(index), _) => Ok(Self::LibTorchCuda(number(index)?)),
                (_, Some(index)) => Ok(Self::Cuda(number(index)?)),
                _ => Err(unknown()),
            },
        }
    }
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::One(DeviceSpec::default())
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == EVERY_CUDA { Ok(Self::EveryCuda) } else { text.parse().map(Self::One) }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::One(device) => device.to_string(),
            DeviceChoice::EveryCuda => EVERY_CUDA.to_owned(),
        }
    }
}

impl DeviceChoice {
    /// The devices that are meant, at least one: where LibTorch finds no CUDA device, the first one, which cannot be opened.
    pub fn devices(self) -> Vec<DeviceSpec> {
        match self {
            Self::One(device) => vec![device],
            Self::EveryCuda => (0..cuda_devices().max(1)).map(DeviceSpec::LibTorchCuda).collect(),
        }
    }
}

/// The CUDA devices that LibTorch finds: none in a build without it.
#[cfg(not(feature = "tch"))]
fn cuda_devices() -> usize {
    0
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::LibTorch => f.write_str("libtorch"),
            Self::LibTorchCuda(index) => write!(f, "libtorch:cuda:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan => f.write_str("vulkan"),
            Self::VulkanCpu => f.write_str("vulkan:cpu"),
        }
    }
}

impl DeviceSpec {
    /// The cargo feature that the device needs and this build lacks.
    pub fn missing_feature(self) -> Option<&'static str> {
        let (feature, built) = match self {
            Self::Cpu => ("", true),
            Self::LibTorch | Self::LibTorchCuda(_) => ("tch", cfg!(feature = "tch")),
            Self::Cuda(_) => ("cuda", cfg!(feature = "cuda")),
            Self::Vulkan | Self::VulkanCpu => ("vulkan", cfg!(feature = "vulkan")),
        };
        (!built).then_some(feature)
    }

    /// The kind of device: its name without a number.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::LibTorch => "libtorch",
            Self::LibTorchCuda(_) => "libtorch:cuda",
            Self::Cuda(_) => "cuda",
            Self::Vulkan => "vulkan",
            Self::VulkanCpu => "vulkan:cpu",
        }
    }

    /// Whether the device computes on the processor, in the memory of the machine.
    pub fn is_processor(self) -> bool {
        matches!(self, Self::Cpu | Self::LibTorch | Self::VulkanCpu)
    }

    /// Opens the device, without autodiff.
    ///
    /// # Errors
    /// A device that this build does not support, or that is not there.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "tch")]
            Self::LibTorch => Ok(Device::libtorch()),
            #[cfg(feature = "tch")]
            Self::LibTorchCuda(index) if index >= cuda_devices() => {
                Err(Error::model(self, format!("no such device: LibTorch finds {} CUDA devices", cuda_devices())))
            }
            #[cfg(feature = "tch")]
            Self::LibTorchCuda(index) => {
                // Before this process takes any of it.
                self.free_memory();
                Ok(Device::libtorch_cuda(index))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Ok(Device::cuda(index)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "vulkan")]
            Self::VulkanCpu => Ok(Device::vulkan(burn::tensor::DeviceKind::Cpu)),
            #[allow(unreachable_patterns, reason = "with every feature built there is nothing left")]
            other => {
                let feature = other.missing_feature().unwrap_or_default();
                Err(Error::model(other, format!("this build cannot use it; build with `--features {feature}`")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(text: &str) -> Result<DeviceChoice, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "libtorch", "libtorch:cuda:1", "libtorch:cuda:*", "cuda:0", "vulkan", "vulkan:cpu"] {
            assert_eq!(String::from(choice(name).unwrap()), name);
        }
        for name in ["gpu", "cuda", "cuda:x", "libtorch:cuda:", "cuda:*", ""] {
            assert!(choice(name).unwrap_err().contains("devices are cpu"), "{name}");
        }
    }

    /// As on a machine without a GPU: there is none to compute on, and the name of the first one to say so.
    #[test]
    fn a_device_that_is_not_there_is_refused_by_its_name() {
        let devices = DeviceChoice::EveryCuda.devices();
        assert_eq!(devices.len(), cuda_devices().max(1));
        let missing = DeviceSpec::LibTorchCuda(cuda_devices());
        let said = missing.open().unwrap_err().to_string();
        assert!(said.starts_with(&format!("{missing}: ")), "{said}");
    }
}
