//! Root-mean-square norm on LibTorch: kernels of this crate on CUDA. Elsewhere one fused operation forward, which a CPU's LibTorch composes of others; back four operations for x
//! and two for the weight.
//!
//! The gradient of x is that of weight normalization (arXiv 1602.07868), for which LibTorch has a fused operation: with
//! `w = v g / |v|`, it is `dv = (dw - v <dw, v> / |v|^2) g / |v|` for every row. With `v = x`, `dw = grad * weight` and `sqrt(d) / r`
//! for both `|v|` and `g`, that is the gradient of [`RmsNorm`] divided by `r`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::FloatDType;
use tch::{Kind, Tensor};

use super::{RmsNorm, cuda, portable_backward};
use crate::kernels::input::GradientSum;
use crate::kernels::libtorch::{fresh, kind, owned};

/// The fused operation counts numbers in 32 bits.
const MOST_NUMBERS: usize = i32::MAX as usize;

impl RmsNorm for LibTorch {
    fn rms_norm(x: TchTensor, weight: TchTensor, eps: f64, out: FloatDType, _: GradientSum) -> (TchTensor, TchTensor) {
        if let Some((y, r)) = cuda::forward(&x.tensor, &weight.tensor, eps, kind(out)) {
            return (fresh(y), fresh(r));
        }
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
        if let Some(grad_x) = cuda::backward(&x.tensor, &weight.tensor, &r.tensor, &grad.tensor, None) {
            return (fresh(grad_x), weight_trains.then(|| fresh(of_weight(&x, &weight, &r, &grad))));
        }
        if x.tensor.numel() > MOST_NUMBERS {
            return portable_backward::<Self>(x, weight, r, grad, weight_trains);
        }
        let (mut by_r, grad_weight) = gradients(&x, &weight, &r, &grad, weight_trains);
        let grad_x = by_r.g_mul_(&r.tensor).to_kind(x.tensor.kind());
        (fresh(grad_x), grad_weight)
    }

    fn rms_norm_backward_onto(
        sum: TchTensor,
        x: TchTensor,
        weight: TchTensor,
        r: TchTensor,
        grad: TchTensor,
        weight_trains: bool,
    ) -> (TchTensor, Option<TchTensor>) {
        let mut sum = owned(sum);
        if let Some(sum) = cuda::backward(&x.tensor, &weight.tensor, &r.tensor, &grad.tensor, Some(&sum)) {
            return (fresh(sum), weight_trains.then(|| fresh(of_weight(&x, &weight, &r, &grad))));
        }
        if x.tensor.numel() > MOST_NUMBERS {
            let (grad_x, grad_weight) = portable_backward::<Self>(x, weight, r, grad, weight_trains);
            return (fresh(sum.g_add_(&grad_x.tensor)), grad_weight);
        }
        let (by_r, grad_weight) = gradients(&x, &weight, &r, &grad, weight_trains);
        (fresh(sum.addcmul_(&by_r, &r.tensor)), grad_weight)
    }
}

/// The square root of `width` as a number of the host, which is made once.
fn root(width: i64) -> Tensor {
    thread_local! {
        static ROOTS: RefCell<BTreeMap<i64, Tensor>> = RefCell::default();
    }
    ROOTS.with_borrow_mut(|roots| {
        roots.entry(width).or_insert_with(|| Tensor::from((width as f32).sqrt())).shallow_clone()
    })
}

/// The gradient of the weight.
fn of_weight(x: &TchTensor, weight: &TchTensor, r: &TchTensor, grad: &TchTensor) -> Tensor {
    let [x, weight, r, grad] = [x, weight, r, grad].map(|tensor| &tensor.tensor);
    cuda::of_weight(x, weight, r, grad).unwrap_or_else(|| products_with_r(x, grad, r))
}

/// The gradient of the weight in two operations: a sum over rows is a product with a vector.
fn products_with_r(x: &Tensor, grad: &Tensor, r: &Tensor) -> Tensor {
    (x.to_kind(Kind::Float) * grad).tr().mv(&r.view([-1]))
}

/// The gradient with respect to x divided by `r`, in f32, and that with respect to the weight if it trains.
fn gradients(
    x: &TchTensor,
    weight: &TchTensor,
    r: &TchTensor,
    grad: &TchTensor,
    weight_trains: bool,
) -> (Tensor, Option<TchTensor>) {
    let (x, r, grad) = (x.tensor.to_kind(Kind::Float).contiguous(), &r.tensor, &grad.tensor);
    let grad_weight = weight_trains.then(|| fresh(products_with_r(&x, grad, r)));
    let norms = root(x.size()[1]).g_div(r);
    let grad_y = (&weight.tensor * grad).contiguous();
    let (by_r, _) = Tensor::internal_weight_norm_interface_backward(&grad_y, &x, &norms, &norms, 0);
    (by_r, grad_weight)
}
