//! The sum of squares on LibTorch, without a tensor of squares.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::Kind;

use super::Norm;
use crate::kernels::libtorch::fresh;

impl Norm for LibTorch {
    fn squared_norm(x: TchTensor) -> TchTensor {
        fresh(x.tensor.norm_scalaropt_dtype(2.0, Kind::Float).square_().view_([1]))
    }
}
