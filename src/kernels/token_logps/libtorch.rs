//! Log-probabilities of tokens on LibTorch: logits of [`ROWS`] rows at a time, and the softmax of
//! them by kernels of this crate on CUDA, elsewhere by operations. Logits, sums and errors are f32 whatever the type of the head.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{ROWS, TokenLogps, cuda};
use crate::kernels::indices::Indices;
use crate::kernels::libtorch::{fresh, ints, wide_matmul, wide_product};

/// The chunks of `rows` rows: first row and count. No rows are one chunk of none.
fn chunks(rows: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..rows.max(1)).step_by(ROWS).map(move |start| (start, (ROWS as i64).min(rows - start)))
}

/// Log-probabilities of `targets` and log-sum-exp, `[rows, 1]` each.
fn reduce(logits: &Tensor, targets: &Tensor) -> [Tensor; 2] {
    let logps = logits.log_softmax(1, None::<Kind>).gather(1, targets, false);
    let lses = logits.gather(1, targets, false) - &logps;
    [logps, lses]
}

/// `(onehot - softmax) * grad` of every row, in place and then in type `kind`.
fn errors(mut logits: Tensor, [targets, lses, grads]: [&Tensor; 3], kind: Kind) -> Tensor {
    let _ = logits.g_sub_(lses).exp_().g_mul_(&grads.neg());
    logits.scatter_add_(1, targets, grads).to_kind(kind)
}

impl TokenLogps for LibTorch {
    fn token_logps(hidden: TchTensor, head: TchTensor, targets: Indices) -> (TchTensor, TchTensor) {
        let (hidden, head) = (hidden.tensor, head.tensor);
        let targets = ints(&targets, hidden.device()).unsqueeze(1);
        let (mut logps, mut lses) = (Vec::new(), Vec::new());
        for (start, count) in chunks(hidden.size()[0]) {
            let logits = wide_product(&hidden.narrow(0, start, count), &head);
            let targets = targets.narrow(0, start, count);
            let [logp, lse] = cuda::reduce(&logits, &targets).unwrap_or_else(|| reduce(&logits, &targets));
            logps.push(logp);
            lses.push(lse);
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
        let (targets, lse, grad) = (
            ints(&targets, hidden.device()).unsqueeze(1),
            lse.tensor.unsqueeze(1),
            grad.tensor.unsqueeze(1).contiguous(),
        );
        let mut of_hidden = Vec::new();
        let mut of_head: Option<Tensor> = None;
        for (start, count) in chunks(hidden.size()[0]) {
            let part = |x: &Tensor| x.narrow(0, start, count);
            let rows = part(&hidden);
            let logits = wide_product(&rows, &head);
            let lists = [&targets, &lse, &grad].map(part);
            let lists = lists.each_ref();
            let errors =
                cuda::errors(&logits, lists, head.kind()).unwrap_or_else(|| errors(logits, lists, head.kind()));
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
