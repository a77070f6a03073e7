//! SwiGLU on LibTorch: kernels of this crate on CUDA, elsewhere two operations forward and four backward.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{SwiGlu, cuda};
use crate::kernels::libtorch::{fresh, owned};

impl SwiGlu for LibTorch {
    fn swiglu(gate: TchTensor, up: TchTensor) -> TchTensor {
        if let Some(out) = cuda::forward(&gate.tensor, &up.tensor, gate.can_mut()) {
            return fresh(out);
        }
        let mut out = match gate.can_mut() {
            true => owned(gate).silu_(),
            false => gate.tensor.silu(),
        };
        fresh(out.g_mul_(&up.tensor))
    }

    fn swiglu_backward(gate: TchTensor, up: TchTensor, grad: TchTensor) -> (TchTensor, TchTensor) {
        let mut grad_silu = owned(grad);
        if let Some(grad_up) = cuda::backward(&gate.tensor, &up.tensor, &grad_silu) {
            return (fresh(grad_silu), fresh(grad_up));
        }
        let mut grad_up = gate.tensor.silu();
        let _ = grad_up.g_mul_(&grad_silu);
        let _ = grad_silu.g_mul_(&up.tensor);
        (fresh(gate.tensor.silu_backward(&grad_silu)), fresh(grad_up))
    }
}
