//! The devices that models run on: `device:` in a pipeline file.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A device as the pipeline file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["cpu", "libtorch", "libtorch:cuda:0", "cuda:0", "vulkan", "vulkan:cpu"]))]
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

const CHOICES: &str = "cpu, libtorch, libtorch:cuda:N, cuda:N, vulkan, vulkan:cpu";

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

impl TryFrom<String> for DeviceSpec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceSpec> for String {
    fn from(device: DeviceSpec) -> Self {
        device.to_string()
    }
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

    /// Opens the device, without autodiff.
    ///
    /// # Errors
    /// A device that this build does not support.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "tch")]
            Self::LibTorch => Ok(Device::libtorch()),
            #[cfg(feature = "tch")]
            Self::LibTorchCuda(index) => Ok(Device::libtorch_cuda(index)),
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

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "libtorch", "libtorch:cuda:1", "cuda:0", "vulkan", "vulkan:cpu"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
        for name in ["gpu", "cuda", "cuda:x", "libtorch:cuda:", ""] {
            assert!(name.parse::<DeviceSpec>().unwrap_err().contains("devices are cpu"), "{name}");
        }
    }
}
