//! The linear layer on flex.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;

use super::{Linear, many_rows};
use crate::kernels::flex::few_rows::{self, FEW_ROWS};
use crate::kernels::flex::memory::{tensor, values};
use crate::kernels::flex::product::matmul;
use crate::kernels::flex::tile::Dtype;
use crate::kernels::input::GradientSum;
use crate::kernels::layout::Layout;

impl Linear for Flex {
    fn rows_linear(x: FlexTensor, weight: FlexTensor, layout: Layout, _: GradientSum) -> FlexTensor {
        let [input, output] = match layout {
            Layout::OutIn => [weight.shape()[1], weight.shape()[0]],
            Layout::InOut => [weight.shape()[0], weight.shape()[1]],
        };
        let rows = x.shape()[0];
        if (1..=FEW_ROWS).contains(&rows) {
            let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
            return tensor(few_rows::product(values(&x), values(&weight), [input, output], layout), [rows, output]);
        }
        many_rows::<Self>(x, weight, layout)
    }

    fn product(lhs: FlexTensor, rhs: FlexTensor) -> FlexTensor {
        match [lhs.dtype(), rhs.dtype()] {
            [DType::F32, DType::F32] if f32::is_fast() => matmul(&lhs, &rhs),
            _ => Self::float_matmul(lhs, rhs),
        }
    }
}
