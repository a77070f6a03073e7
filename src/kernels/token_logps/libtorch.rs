//! Log-probabilities of tokens on LibTorch: logits of [`ROWS`] rows at a time, and one pass over them for the softmax. Logits, sums and errors are f32 whatever the type of the head.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{ROWS, TokenLogps};
use crate::kernels::indices::Indices;
use crate::kernels::libtorch::{fresh, ints, wide_matmul, wide_product};

/// The chunks of `rows` rows: first row and count. No rows are one chunk of none.
fn chunks(rows: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..rows.max(1)).step_by(ROWS).map(move |start| (start, (ROWS as i64).min(rows - start)))
}

impl TokenLogps for LibTorch {
    fn token_logps(hidden: TchTensor, head: TchTensor, targets: Indices) -> (TchTensor, TchTensor) {
        let (hidden, head) = (hidden.tensor, head.tensor);
        let targets = ints(&targets, hidden.device()).unsqueeze(1);
        let (mut logps, mut lses) = (Vec::new(), Vec::new());
        for (start, count) in chunks(hidden.size()[0]) {
            let logits = wide_product(&hidden.narrow(0, start, count), &head);
            let targets = targets.narrow(0, start, count);
            let logp = logits.log_softmax(1, None::<Kind>).gather(1, &targets, false);
            lses.push(logits.gather(1, &targets, false) - &logp);
            logps.push(logp);
        }
        let whole = |parts: Vec<Tensor>| fresh(Tensor::cat(&parts, 0).view_([-1]));
        (whole(logps), whole(lses))
    }

    fn token_logps_backward(
        hidden: TchTensor,
        head: TchTensor,
        lse: TchTensor,
        grad: TchTensor,
        targets: Indices,
        head_trains: bool,
    ) -> (TchTensor, Option<TchTensor>) {
        let (hidden, head) = (hidden.tensor, head.tensor);
        let (targets, lse, grad) =
            (ints(&targets, hidden.device()).unsqueeze(1), lse.tensor.unsqueeze(1), grad.tensor.unsqueeze(1));
        let minus_grad = grad.neg();
        let mut of_hidden = Vec::new();
        let mut of_head: Option<Tensor> = None;
        for (start, count) in chunks(hidden.size()[0]) {
            let part = |x: &Tensor| x.narrow(0, start, count);
            let rows = part(&hidden);
            // (onehot - softmax) * grad, in place.
            let mut errors = wide_product(&rows, &head);
            let _ = errors.g_sub_(&part(&lse)).exp_().g_mul_(&part(&minus_grad));
            let _ = errors.scatter_add_(1, &part(&targets), &part(&grad));
            let errors = errors.to_kind(head.kind());
            of_hidden.push(errors.mm(&head));
            if head_trains {
                let own = wide_matmul(&errors.tr(), &rows);
                of_head = Some(match of_head {
                    Some(mut sum) => sum.g_add_(&own),
                    None => own,
                });
            }
        }
        (fresh(Tensor::cat(&of_hidden, 0)), of_head.map(fresh))
    }
}
