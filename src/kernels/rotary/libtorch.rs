//! Rotary position embedding on LibTorch: three operations.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::Rotary;
use crate::kernels::libtorch::fresh;

impl Rotary for LibTorch {
    fn rotary(x: TchTensor, cos: TchTensor, sin: TchTensor, minus_sin: TchTensor, head_dim: usize) -> TchTensor {
        let (size, half) = (x.tensor.size(), cos.tensor.size()[1]);
        let [rows, width] = [size[0], size[1]];
        let [cos, sin, minus_sin] = [&cos, &sin, &minus_sin].map(|table| table.tensor.unsqueeze(1));
        let x = x.tensor.reshape([rows, width / head_dim as i64, head_dim as i64]);
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
