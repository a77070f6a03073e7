//! GELU on LibTorch: one operation each way.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{Gelu, GeluKernel};
use crate::kernels::libtorch::fresh;

impl GeluKernel for LibTorch {
    fn rows_gelu(x: TchTensor, kind: Gelu) -> TchTensor {
        fresh(x.tensor.gelu(kind.torch()))
    }

    fn rows_gelu_backward(x: TchTensor, grad: TchTensor, kind: Gelu) -> TchTensor {
        fresh(x.tensor.gelu_backward(&grad.tensor, kind.torch()))
    }
}

impl Gelu {
    /// The name of the approximation in `torch.nn.functional.gelu`.
    fn torch(self) -> &'static str {
        match self {
            Self::Exact => "none",
            Self::Tanh => "tanh",
        }
    }
}
