//! The bodies for flex: blocks of logits in the L2 cache.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::TokenLogps;
use crate::kernels::flex::memory::{tensor, values};
use crate::kernels::flex::simd::{exp, exp_shifted, max, vectorized};
use crate::kernels::indices::Indices;
use crate::kernels::packed::{Packed, Storage};
use crate::kernels::vocabulary::flex::{BLOCK, BLOCK_ROWS, InPanels, Logits, Plain, log_sum_exp};

impl TokenLogps for Flex {
    fn token_logps(hidden: FlexTensor, head: FlexTensor, targets: Indices) -> (FlexTensor, FlexTensor) {
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let rows = targets.len();
        let (logps, lses) = reduce(targets.host(), &Plain::new(&hidden, &head));
        (tensor(logps, [rows]), tensor(lses, [rows]))
    }

    fn packed_token_logps(hidden: FlexTensor, head: Arc<Packed>, targets: Indices) -> FlexTensor {
        let hidden = hidden.to_contiguous();
        let (logps, _) = match &head.storage {
            Storage::F32(panels) => reduce(targets.host(), &InPanels::new(&hidden, panels)),
            Storage::Bf16(panels) => reduce(targets.host(), &InPanels::new(&hidden, panels)),
        };
        tensor(logps, [targets.len()])
    }

    fn token_logps_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        lse: FlexTensor,
        grad: FlexTensor,
        targets: Indices,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [hidden, head, lse, grad] = [hidden, head, lse, grad].map(|tensor| tensor.to_contiguous());
        let (lse, grad, targets) = (values(&lse), values(&grad), targets.host());
        let logits = Plain::new(&hidden, &head);
        logits.backward(head_trains, |block, start, errors, _| {
            let size = logits.block(block, start, errors);
            for (row, errors) in (start..).zip(errors.chunks_exact_mut(size)) {
                let (lse, grad) = (lse[row], grad[row]);
                vectorized(
                    #[inline(always)]
                    || {
                        for error in errors.iter_mut() {
                            *error = -grad * exp(*error - lse);
                        }
                    },
                );
                if let Some(hit) = errors.get_mut((targets[row] as usize).wrapping_sub(block * BLOCK)) {
                    *hit += grad;
                }
            }
            size
        })
    }
}

/// The log-probabilities and log-sum-exps of all rows.
fn reduce(targets: &[i32], logits: &impl Logits) -> (Vec<f32>, Vec<f32>) {
    let rows = targets.len();
    let parts: Vec<Vec<[f32; 2]>> = (0..logits.blocks())
        .into_par_iter()
        .map_init(Vec::new, |scratch, block| {
            let mut sums = Vec::with_capacity(rows);
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let size = logits.block(block, start, scratch);
                for row in scratch.chunks_exact_mut(size) {
                    sums.push(vectorized(
                        #[inline(always)]
                        || {
                            let highest = max(row);
                            [highest, exp_shifted(row, highest)]
                        },
                    ));
                }
            }
            sums
        })
        .collect();
    let finish = |row: usize| {
        let lse = log_sum_exp(parts.iter().map(|sums| sums[row]));
        ((f64::from(logits.one(row, targets[row] as usize)) - lse) as f32, lse as f32)
    };
    (0..rows).into_par_iter().map(finish).unzip()
}
