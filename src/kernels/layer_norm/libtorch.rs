//! Layer norm on LibTorch: one fused operation forward, the portable body backward.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::FloatDType;
use tch::Kind;

use super::LayerNorm;
use crate::kernels::libtorch::{fresh, kind};

impl LayerNorm for LibTorch {
    fn rows_layer_norm(x: TchTensor, weight: TchTensor, bias: TchTensor, eps: f64, out: FloatDType) -> TchTensor {
        let x = x.tensor.to_kind(Kind::Float);
        let y = x.layer_norm(weight.tensor.size(), Some(&weight.tensor), Some(&bias.tensor), eps, false);
        fresh(y.to_kind(kind(out)))
    }
}
