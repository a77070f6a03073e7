//! Root-mean-square norm on LibTorch: one fused operation forward, which a CPU's LibTorch composes of others.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::FloatDType;
use tch::{Kind, Tensor};

use super::RmsNorm;
use crate::kernels::libtorch::{fresh, kind};

impl RmsNorm for LibTorch {
    fn rms_norm(x: TchTensor, weight: TchTensor, eps: f64, out: FloatDType) -> (TchTensor, TchTensor) {
        let x = x.tensor.to_kind(Kind::Float);
        let (y, r) = x.internal_fused_rms_norm(weight.tensor.size(), Some(&weight.tensor), eps);
        (fresh(y.to_kind(kind(out))), fresh(r))
    }

    fn rms_norm_backward(
        x: TchTensor,
        weight: TchTensor,
        r: TchTensor,
        grad: TchTensor,
        weight_trains: bool,
    ) -> (TchTensor, Option<TchTensor>) {
        let (dtype, d) = (x.tensor.kind(), weight.tensor.size()[0]);
        let normed = &x.tensor * &r.tensor;
        // grad * normed gives both sums: over rows for the weight, and weighted by it over columns for the mean.
        let products = &normed * &grad.tensor;
        let grad_weight = weight_trains.then(|| fresh(products.sum_dim_intlist(&[0i64][..], false, None::<Kind>)));
        let mean = products.mv(&(&weight.tensor / -(d as f64))).unsqueeze(1);
        let mut grad_x: Tensor = &weight.tensor * &grad.tensor;
        let _ = grad_x.addcmul_(&normed, &mean);
        let _ = grad_x.g_mul_(&r.tensor);
        (fresh(grad_x.to_kind(dtype)), grad_weight)
    }
}
