//! Stochastic rounding on flex.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType};
use half::bf16;
use rayon::prelude::*;

use super::{Rounding, noise, round};
use crate::kernels::flex::memory::values;

impl Rounding for Flex {
    fn rounded(x: FlexTensor, seed: u64) -> FlexTensor {
        let x = x.to_contiguous();
        let one = |(index, value): (usize, &f32)| round(*value, noise(seed, index));
        let rounded: Vec<bf16> = values(&x).par_iter().with_min_len(1 << 14).enumerate().map(one).collect();
        FlexTensor::new(Bytes::from_elems(rounded), Layout::contiguous(x.shape()), DType::BF16)
    }
}
