//! Rotary position embedding on flex, in place.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::Rotary;
use crate::kernels::flex::memory::{ROWS, values, whole};
use crate::kernels::flex::simd::vectorized;

impl Rotary for Flex {
    fn rotary(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, _: FlexTensor, head_dim: usize) -> FlexTensor {
        let (mut x, cos, sin) = (whole(x), cos.to_contiguous(), sin.to_contiguous());
        let (width, half) = (x.shape()[1], cos.shape()[1]);
        let angles = values(&cos).par_chunks(half * ROWS).zip(values(&sin).par_chunks(half * ROWS));
        x.storage_mut::<f32>().par_chunks_mut(width * ROWS).zip(angles).for_each(|(x, (cos, sin))| {
            vectorized(
                #[inline(always)]
                || {
                    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                    for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
                        for x in x.chunks_exact_mut(head_dim) {
                            let (first, second) = x[..2 * half].split_at_mut(half);
                            for i in 0..half {
                                let (one, other) = (first[i], second[i]);
                                first[i] = one * cos[i] - other * sin[i];
                                second[i] = other * cos[i] + one * sin[i];
                            }
                        }
                    }
                },
            );
        });
        x
    }
}
