//! Logits of some rows at a time, in backend operations.

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, Slice};

use crate::kernels::indices::Indices;

/// The largest number of logits at a time.
const LOGITS: usize = 16 << 20;

/// The targets as columns, for gathers, in chunks whose logits fit the limit, each with its first row and the number of rows.
pub(in crate::kernels) fn chunks<B: Backend>(
    targets: &Indices,
    vocabulary: usize,
    device: &Device<B>,
) -> impl Iterator<Item = (usize, usize, IntTensor<B>)> {
    let (size, all, on_device) = ((LOGITS / vocabulary).max(1), targets.len(), targets.tensor::<B>(device));
    (0..all).step_by(size).map(move |start| {
        let count = size.min(all - start);
        let column = B::int_slice(on_device.clone(), &[Slice::from(start..start + count)]);
        (start, count, B::int_reshape(column, [count, 1].into()))
    })
}

/// The tensor in f32.
pub(in crate::kernels) fn wide<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_cast(tensor, FloatDType::F32)
}

/// Logits of `count` rows from `start` on, `[count, vocabulary]`.
pub(in crate::kernels) fn logits<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    start: usize,
    count: usize,
) -> FloatTensor<B> {
    let d = hidden.shape()[1];
    let rows = B::float_slice(hidden, &[start..start + count, 0..d].map(Slice::from));
    B::float_matmul(rows, B::float_transpose(head))
}

/// The backward pass: gradients with respect to hidden and, if `head_trains`, head. `errors(start, count)` gives the gradient of the
/// logits of `count` rows from `start` on, without the term of the target's logit, and that term as a column.
pub(in crate::kernels) fn backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: &Indices,
    head_trains: bool,
    errors: impl Fn(usize, usize) -> (FloatTensor<B>, FloatTensor<B>),
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let device = hidden.device();
    let [vocabulary, d] = head.shape().dims();
    let dtypes = [hidden.dtype(), head.dtype()];
    let [hidden, head] = [hidden, head].map(wide::<B>);
    let mut grad_hidden = Vec::new();
    let mut grad_head: Option<FloatTensor<B>> = None;
    for (start, count, column) in chunks::<B>(targets, vocabulary, &device) {
        let (error, of_target) = errors(start, count);
        let error = B::float_scatter(1, error, column, of_target, IndexingUpdateOp::Add);
        grad_hidden.push(B::float_matmul(error.clone(), head.clone()));
        if !head_trains {
            continue;
        }
        let rows = B::float_slice(hidden.clone(), &[start..start + count, 0..d].map(Slice::from));
        let part = B::float_matmul(B::float_transpose(error), rows);
        grad_head = Some(match grad_head {
            Some(sum) => B::float_add(sum, part),
            None => part,
        });
    }
    let grad_head = grad_head.map(|grad| B::float_cast(grad, dtypes[1].into()));
    (B::float_cast(B::float_cat(grad_hidden, 0), dtypes[0].into()), grad_head)
}
