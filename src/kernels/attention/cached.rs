//! Attention of new rows to cached keys and values: one row at a time, each with its own past, so that the result of a row does not
//! depend on the other rows.

use rayon::prelude::*;

use super::Spans;
use crate::kernels::flex::memory::Shared;
use crate::kernels::flex::simd::{dot, exp_shifted, max, vectorized};

/// Keys and values of consecutive positions, `[positions, kv_heads * d]` each.
pub(crate) type Block<'a> = [&'a [f32]; 2];

/// What a row attends to: a prompt, then the rows that follow it, up to and including the row itself.
pub(crate) type Past<'a> = [Block<'a>; 2];

/// The attention output `[rows, heads * d]` of queries `[rows, heads * d]`. The segments of `spans` are not used.
pub(crate) fn cached_attention(q: &[f32], pasts: &[Past], spans: &Spans) -> Vec<f32> {
    let (d, width, kv_width) = (spans.head_dim, spans.heads * spans.head_dim, spans.kv_heads * spans.head_dim);
    let mut out = vec![0f32; q.len()];
    let place = Shared(out.as_mut_ptr());
    let tasks = (0..pasts.len() * spans.kv_heads).into_par_iter();
    tasks.for_each_init(Vec::new, |scores, task| {
        let (row, kv_head) = (task / spans.kv_heads, task % spans.kv_heads);
        let positions: usize = pasts[row].iter().map(|block| block[0].len() / kv_width).sum();
        let skipped = spans.visible(positions - 1).start;
        for head in kv_head * spans.group()..(kv_head + 1) * spans.group() {
            let at = row * width + head * d;
            // SAFETY: only this task writes the columns of its heads in its row.
            let out = unsafe { std::slice::from_raw_parts_mut(place.at(at), d) };
            let visible = |part: usize| {
                let rows = pasts[row].iter().flat_map(move |block| block[part].chunks_exact(kv_width));
                rows.skip(skipped).map(move |row| &row[kv_head * d..][..d])
            };
            scores.clear();
            vectorized(
                #[inline(always)]
                || {
                    scores.extend(visible(0).map(|key| dot(&q[at..at + d], key) * spans.scale));
                    let highest = max(scores);
                    let total = exp_shifted(scores, highest);
                    for (weight, value) in scores.iter().zip(visible(1)) {
                        let weight = weight / total;
                        for (out, value) in out.iter_mut().zip(value) {
                            *out += weight * value;
                        }
                    }
                },
            );
        }
    });
    out
}
