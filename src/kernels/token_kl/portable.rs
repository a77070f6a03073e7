//! The bodies in backend operations: the logits of both models for as many rows as fit the limit at a time.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Slice;

use crate::kernels::indices::Indices;
use crate::kernels::vocabulary::portable::{backward, chunks, logits, wide};

pub(in crate::kernels) fn portable<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    reference: FloatTensor<B>,
    reference_head: FloatTensor<B>,
    targets: Indices,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = hidden.device();
    let [hidden, head, reference, reference_head] = [hidden, head, reference, reference_head].map(wide::<B>);
    let mut parts: [Vec<FloatTensor<B>>; 5] = Default::default();
    for (start, count, column) in chunks::<B>(&targets, head.shape()[0], &device) {
        let log_softmax = |hidden: &FloatTensor<B>, head: &FloatTensor<B>| {
            let logits = logits::<B>(hidden.clone(), head.clone(), start, count);
            let highest = B::float_max_dim(logits.clone(), 1);
            let weights = B::float_exp(B::float_sub(logits.clone(), highest.clone()));
            let lse = B::float_add(highest, B::float_log(B::float_sum_dim(weights, 1)));
            (B::float_sub(logits, lse.clone()), lse)
        };
        let (own, own_lse) = log_softmax(&hidden, &head);
        let (other, other_lse) = log_softmax(&reference, &reference_head);
        let of_targets = |logps: &FloatTensor<B>| B::float_gather(1, logps.clone(), column.clone());
        let (own_logps, other_logps) = (of_targets(&own), of_targets(&other));
        let terms = B::float_mul(B::float_exp(other.clone()), B::float_sub(other, own));
        let found = [own_logps, B::float_sum_dim(terms, 1), own_lse, other_lse, other_logps];
        for (parts, found) in parts.iter_mut().zip(found) {
            parts.push(B::float_reshape(found, [1, count].into()));
        }
    }
    let [logps, divergences, own_lse, other_lse, other_logps] = parts.map(|parts| B::float_cat(parts, 1));
    (B::float_cat(vec![logps, divergences], 0), B::float_cat(vec![own_lse, other_lse, other_logps], 0))
}

pub(in crate::kernels) fn portable_backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    reference: FloatTensor<B>,
    reference_head: FloatTensor<B>,
    rows: FloatTensor<B>,
    targets: Indices,
    head_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [wide_hidden, wide_head] = [&hidden, &head].map(|tensor| wide::<B>(tensor.clone()));
    let [reference, reference_head] = [reference, reference_head].map(wide::<B>);
    backward::<B>(hidden, head, &targets, head_trains, |start, count| {
        let [own_lse, other_lse, a, b] = [0, 1, 2, 3].map(|row| {
            let part = B::float_slice(rows.clone(), &[row..row + 1, start..start + count].map(Slice::from));
            B::float_reshape(part, [count, 1].into())
        });
        let softmax = |hidden: &FloatTensor<B>, head: &FloatTensor<B>, lse: FloatTensor<B>| {
            B::float_exp(B::float_sub(logits::<B>(hidden.clone(), head.clone(), start, count), lse))
        };
        let own = B::float_mul(softmax(&wide_hidden, &wide_head, own_lse), B::float_sub(b.clone(), a.clone()));
        let other = B::float_mul(softmax(&reference, &reference_head, other_lse), b);
        (B::float_sub(own, other), a)
    })
}
