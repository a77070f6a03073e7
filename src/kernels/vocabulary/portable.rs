//! Logits of some rows at a time, in backend operations.

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{IndexingUpdateOp, Slice, TensorData};

/// The largest number of logits at a time.
const LOGITS: usize = 16 << 20;

/// The targets in chunks whose logits fit the limit, each with its first row.
pub(in crate::kernels) fn chunks(targets: &[i32], vocabulary: usize) -> impl Iterator<Item = (usize, &[i32])> {
    let size = (LOGITS / vocabulary).max(1);
    targets.chunks(size).enumerate().map(move |(index, targets)| (index * size, targets))
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

/// `targets` as a column, for gathers.
pub(in crate::kernels) fn column<B: Backend>(targets: &[i32], device: &Device<B>) -> IntTensor<B> {
    let data = TensorData::new(targets.to_vec(), [targets.len(), 1]);
    let dtype = get_or_init_device_settings::<B>(device).int_dtype;
    B::int_from_data(data.convert_dtype(dtype.into()), device)
}

/// The backward pass: gradients with respect to hidden and, if `head_trains`, head. `errors(start, count)` gives the gradient of the
/// logits of `count` rows from `start` on, without the term of the target's logit, and that term as a column.
pub(in crate::kernels) fn backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: &[i32],
    head_trains: bool,
    errors: impl Fn(usize, usize) -> (FloatTensor<B>, FloatTensor<B>),
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let device = hidden.device();
    let [vocabulary, d] = head.shape().dims();
    let mut grad_hidden = Vec::new();
    let mut grad_head: Option<FloatTensor<B>> = None;
    for (start, targets) in chunks(targets, vocabulary) {
        let count = targets.len();
        let (error, of_target) = errors(start, count);
        let error = B::float_scatter(1, error, column::<B>(targets, &device), of_target, IndexingUpdateOp::Add);
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
    (B::float_cat(grad_hidden, 0), grad_head)
}
