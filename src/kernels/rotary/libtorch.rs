//! Rotary position embedding on LibTorch: a kernel of this crate on CUDA, elsewhere three operations.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{Rotary, cuda};
use crate::kernels::libtorch::{fresh, owned};

impl Rotary for LibTorch {
    fn rotary(x: TchTensor, cos: TchTensor, sin: TchTensor, minus_sin: TchTensor, head_dim: usize) -> TchTensor {
        let x = owned(x);
        if cuda::rotate(&x, [&cos.tensor, &sin.tensor, &minus_sin.tensor], head_dim).is_some() {
            return fresh(x);
        }
        let (size, half) = (x.size(), cos.tensor.size()[1]);
        let [rows, width] = [size[0], size[1]];
        let [cos, sin, minus_sin] = [&cos, &sin, &minus_sin].map(|table| table.tensor.unsqueeze(1));
        let x = x.reshape([rows, width / head_dim as i64, head_dim as i64]);
        let (first, second) = (x.narrow(2, 0, half), x.narrow(2, half, half));
        let out = if 2 * half == head_dim as i64 {
            // Both halves times the cosine in one operation.
            let by_half = x.unflatten(2, [2, half]);
            (by_half * cos.unsqueeze(2)).view_(x.size())
        } else {
            let out = x.copy();
            let _ = out.narrow(2, 0, half).g_mul_(&cos);
            let _ = out.narrow(2, half, half).g_mul_(&cos);
            out
        };
        let _ = out.narrow(2, 0, half).addcmul_(&second, &minus_sin);
        let _ = out.narrow(2, half, half).addcmul_(&first, &sin);
        fresh(out.view_([rows, width]))
    }
}
