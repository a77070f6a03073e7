//! The body for flex.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::{Choice, Row, Rule, host};
use crate::kernels::flex::memory::values;

impl Choice for Flex {
    fn choose(logits: FlexTensor, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
        host::chosen(values(&logits.to_contiguous()), rule, &rows)
    }
}
