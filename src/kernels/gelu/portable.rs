//! GELU in backend operations.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::{CUBIC, Gelu, ROOT};

/// The factor of x: Φ(x), or its approximation `sigmoid(2 z)`, which is `(1 + tanh(z)) / 2`.
fn factor<B: Backend>(x: FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    let scaled = |x, scale: f32| B::float_mul_scalar(x, scale.into());
    match kind {
        Gelu::Exact => {
            let erf = B::float_erf(scaled(x, std::f32::consts::FRAC_1_SQRT_2));
            scaled(B::float_add_scalar(erf, 1f32.into()), 0.5)
        }
        Gelu::Tanh => {
            let square = B::float_mul(x.clone(), x.clone());
            let inner = B::float_add_scalar(scaled(square, CUBIC), 1f32.into());
            B::sigmoid(scaled(B::float_mul(x, inner), 2.0 * ROOT))
        }
    }
}

pub(in crate::kernels) fn portable<B: Backend>(x: FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    B::float_mul(x.clone(), factor::<B>(x, kind))
}

/// The derivative is `factor + x factor'`, with `Φ' = e^(-x²/2) / √(2π)` and `sigmoid' = sigmoid (1 - sigmoid)`.
pub(in crate::kernels) fn portable_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    kind: Gelu,
) -> FloatTensor<B> {
    let scaled = |x, scale: f32| B::float_mul_scalar(x, scale.into());
    let factor = factor::<B>(x.clone(), kind);
    let square = B::float_mul(x.clone(), x.clone());
    let derivative = match kind {
        Gelu::Exact => scaled(B::float_exp(scaled(square, -0.5)), 0.5 * ROOT),
        Gelu::Tanh => {
            let rest = B::float_add_scalar(B::float_neg(factor.clone()), 1f32.into());
            let inner = B::float_add_scalar(scaled(square, 3.0 * CUBIC), 1f32.into());
            scaled(B::float_mul(B::float_mul(factor.clone(), rest), inner), 2.0 * ROOT)
        }
    };
    B::float_mul(grad, B::float_add(factor, B::float_mul(x, derivative)))
}
