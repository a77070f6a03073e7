//! The linear layer on LibTorch: one product. The logits of a head in bf16 have f32 sums and are not rounded.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::Linear;
use crate::kernels::libtorch::{fresh, wide_product};

impl Linear for LibTorch {
    fn logits(x: TchTensor, head: TchTensor) -> TchTensor {
        fresh(wide_product(&x.tensor.to_kind(head.tensor.kind()), &head.tensor))
    }
}
