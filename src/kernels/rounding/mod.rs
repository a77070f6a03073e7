//! Stochastic rounding of f32 to bf16 (arXiv 1502.02551): to one of the two nearest numbers, with a probability that makes the mean
//! the number itself. What changes by less than a bf16 number can represent still moves, over many steps.

#[cfg(feature = "tch")]
mod cuda;
mod flex;
#[cfg(feature = "tch")]
mod libtorch;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData, try_read_sync};
use half::bf16;

/// `x` in f32, flat, rounded to bf16. The random numbers follow from `seed` and the kind of device.
pub fn round_stochastically(x: Tensor<1>, seed: u64) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Rounding>::rounded(x.into_dispatch(), seed))
}

/// The kernel; see [`round_stochastically`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait Rounding: Backend {
    /// `x` in bf16. This body computes on the host.
    fn rounded(x: FloatTensor<Self>, seed: u64) -> FloatTensor<Self> {
        let device = x.device();
        let data =
            try_read_sync(Self::float_into_data(x)).expect("a host reads at once").expect("the device has the tensor");
        let values = data.try_into_vec::<f32>().expect("moments and parameters are computed in f32");
        let values: Vec<bf16> =
            values.iter().enumerate().map(|(index, value)| round(*value, noise(seed, index))).collect();
        let shape = [values.len()];
        Self::float_from_data(TensorData::new(values, shape), &device)
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Rounding for burn::backend::Cube {}

/// 16 random bits for element `index`: SplitMix64 (Steele, Lea and Flood 2014), whose numbers can be computed in any order.
fn noise(seed: u64, index: usize) -> u16 {
    let mut z = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 48) as u16
}

/// The upper half of `value` after noise was added to the lower one, which carries with the probability of rounding up.
fn round(value: f32, noise: u16) -> bf16 {
    match value.is_finite() {
        true => bf16::from_bits((value.to_bits().wrapping_add(u32::from(noise)) >> 16) as u16),
        false => bf16::from_f32(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, FloatDType};

    fn rounded(values: &[f32], seed: u64, device: &Device) -> Vec<f32> {
        let tensor = Tensor::<1>::from_data(values, device);
        let narrow = round_stochastically(tensor, seed);
        assert_eq!(narrow.dtype(), burn::tensor::DType::BF16);
        narrow.cast(FloatDType::F32).into_data().try_into_vec().unwrap()
    }

    fn on_every_device(check: impl Fn(&Device)) {
        check(&Device::flex());
        #[cfg(feature = "tch")]
        check(&Device::libtorch());
    }

    #[test]
    fn the_mean_of_many_roundings_is_the_number() {
        on_every_device(|device| {
            for value in [1.0017f32, -3.3017, 2.7e-39, 6.02e23] {
                const COUNT: usize = 1 << 16;
                let found = rounded(&[value; COUNT], 7, device);
                let [below, above] =
                    [value.to_bits() & 0xffff_0000, (value.to_bits() | 0xffff) + 1].map(f32::from_bits);
                assert!(found.iter().all(|found| *found == below || *found == above), "{value}");
                let mean = found.iter().map(|found| f64::from(*found)).sum::<f64>() / COUNT as f64;
                // The standard deviation of the mean is at most half of the step over 256; five of them.
                let step = f64::from(above - below).abs();
                assert!((mean - f64::from(value)).abs() < step / 512.0 * 5.0, "{value}: {mean}");
            }
        });
    }

    #[test]
    fn what_bf16_represents_stays_and_a_seed_gives_the_same_numbers_again() {
        on_every_device(|device| {
            let exact = [0.0, -0.0, 1.0, -1.5, bf16::MAX.to_f32(), f32::INFINITY, f32::NEG_INFINITY];
            assert_eq!(rounded(&exact, 1, device), exact);
            assert!(rounded(&[f32::NAN], 1, device)[0].is_nan());
            let values: Vec<f32> = (0..1000).map(|index| (index as f32).sin()).collect();
            assert_eq!(rounded(&values, 3, device), rounded(&values, 3, device));
            assert_ne!(rounded(&values, 3, device), rounded(&values, 4, device));
            assert!(rounded(&[], 3, device).is_empty());
        });
    }

    #[test]
    fn the_body_on_the_host_is_that_for_flex() {
        let values: Vec<f32> = (0..100).map(|index| (index as f32).cos()).collect();
        let host: Vec<f32> =
            values.iter().enumerate().map(|(index, value)| round(*value, noise(9, index)).to_f32()).collect();
        assert_eq!(rounded(&values, 9, &Device::flex()), host);
    }
}
