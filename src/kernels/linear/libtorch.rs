//! The linear layer on LibTorch: one product, also where its result is added to a sum. The logits of a head in bf16 have f32 sums and
//! are not rounded.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::Linear;
use crate::kernels::libtorch::{fresh, owned, wide_product};

impl Linear for LibTorch {
    fn logits(x: TchTensor, head: TchTensor) -> TchTensor {
        fresh(wide_product(&x.tensor.to_kind(head.tensor.kind()), &head.tensor))
    }

    fn product_onto(sum: TchTensor, lhs: TchTensor, rhs: TchTensor) -> TchTensor {
        fresh(owned(sum).addmm_(&lhs.tensor, &rhs.tensor))
    }
}
