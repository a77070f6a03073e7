//! The bodies in backend operations: the logits of as many rows as fit the limit at a time.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Slice;

use crate::kernels::indices::Indices;
use crate::kernels::vocabulary::portable::{backward, chunks, logits, wide};

pub(in crate::kernels) fn portable<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: Indices,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = hidden.device();
    let [hidden, head] = [hidden, head].map(wide::<B>);
    let (mut logps, mut lses) = (Vec::new(), Vec::new());
    for (start, count, column) in chunks::<B>(&targets, head.shape()[0], &device) {
        let logits = logits::<B>(hidden.clone(), head.clone(), start, count);
        let highest = B::float_max_dim(logits.clone(), 1);
        let weights = B::float_exp(B::float_sub(logits.clone(), highest.clone()));
        let lse = B::float_add(highest, B::float_log(B::float_sum_dim(weights, 1)));
        let chosen = B::float_gather(1, logits, column);
        let flat = [count];
        logps.push(B::float_reshape(B::float_sub(chosen, lse.clone()), flat.into()));
        lses.push(B::float_reshape(lse, flat.into()));
    }
    (B::float_cat(logps, 0), B::float_cat(lses, 0))
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    targets: Indices,
    head_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [wide_hidden, wide_head] = [&hidden, &head].map(|tensor| wide::<B>(tensor.clone()));
    backward::<B>(hidden, head, &targets, head_trains, |start, count| {
        let part = |x: &FloatTensor<B>| {
            let x = B::float_slice(x.clone(), &[Slice::from(start..start + count)]);
            B::float_reshape(x, [count, 1].into())
        };
        let logits = logits::<B>(wide_hidden.clone(), wide_head.clone(), start, count);
        let softmax = B::float_exp(B::float_sub(logits, part(&lse)));
        let grad = part(&grad);
        (B::float_neg(B::float_mul(softmax, grad.clone())), grad)
    })
}
