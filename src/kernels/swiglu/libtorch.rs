//! SwiGLU on LibTorch: two operations forward, four backward.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::SwiGlu;
use crate::kernels::libtorch::{fresh, owned};

impl SwiGlu for LibTorch {
    fn swiglu(gate: TchTensor, up: TchTensor) -> TchTensor {
        let mut out = match gate.can_mut() {
            true => owned(gate).silu_(),
            false => gate.tensor.silu(),
        };
        fresh(out.g_mul_(&up.tensor))
    }

    fn swiglu_backward(gate: TchTensor, up: TchTensor, grad: TchTensor) -> (TchTensor, TchTensor) {
        let mut grad_up = gate.tensor.silu();
        let _ = grad_up.g_mul_(&grad.tensor);
        let mut grad_silu = owned(grad);
        let _ = grad_silu.g_mul_(&up.tensor);
        (fresh(gate.tensor.silu_backward(&grad_silu)), fresh(grad_up))
    }
}
