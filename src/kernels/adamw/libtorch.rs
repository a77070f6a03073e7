//! AdamW on LibTorch: a kernel of this crate on CUDA, elsewhere eight or nine operations in place, and no tensor beyond two of the gradient's size.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{AdamW, Step, cuda};
use crate::kernels::libtorch::{fresh, owned};

impl AdamW for LibTorch {
    fn adamw(
        parameter: TchTensor,
        first: TchTensor,
        second: TchTensor,
        gradient: TchTensor,
        step: Step,
    ) -> (TchTensor, TchTensor, TchTensor) {
        let [mut parameter, mut first, mut second] = [parameter, first, second].map(owned);
        if cuda::adamw(&parameter, [&first, &second], &gradient.tensor, step).is_some() {
            return (fresh(parameter), fresh(first), fresh(second));
        }
        let mut gradient = owned(gradient);
        let [decay, beta1, beta2, root, eps, rate, scale] = step.factors().map(f64::from);
        if scale != 1.0 {
            let _ = gradient.g_mul_scalar_(scale);
        }
        let _ = first.lerp_(&gradient, 1.0 - beta1);
        let _ = second.lerp_(&gradient.square_(), 1.0 - beta2);
        // rate * m / (sqrt(v) root + eps) with the rate in the denominator, so that one operation divides and subtracts.
        let mut denominator = second.sqrt();
        let _ = denominator.g_add_scalar_(eps / root);
        let _ = denominator.g_mul_scalar_(-root / rate);
        if decay != 1.0 {
            let _ = parameter.g_mul_scalar_(decay);
        }
        let _ = parameter.addcdiv_(&first, &denominator);
        (fresh(parameter), fresh(first), fresh(second))
    }
}
