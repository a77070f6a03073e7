//! The bodies for flex: blocks of the logits of both models in the L2 cache.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::TokenKl;
use crate::kernels::flex::memory::{tensor, values};
use crate::kernels::flex::simd::{exp, max, vectorized};
use crate::kernels::indices::Indices;
use crate::kernels::packed::{Packed, Storage};
use crate::kernels::vocabulary::flex::{BLOCK, BLOCK_ROWS, InPanels, Logits, Plain, log_sum_exp};

impl TokenKl for Flex {
    fn token_kl(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: FlexTensor,
        targets: Indices,
    ) -> (FlexTensor, FlexTensor) {
        let tensors = [hidden, head, reference, reference_head].map(|tensor| tensor.to_contiguous());
        let [hidden, head, reference, reference_head] = &tensors;
        compare(targets.host(), &Plain::new(hidden, head), &Plain::new(reference, reference_head))
    }

    fn packed_token_kl(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: Arc<Packed>,
        targets: Indices,
    ) -> (FlexTensor, FlexTensor) {
        let [hidden, head, reference] = [hidden, head, reference].map(|tensor| tensor.to_contiguous());
        let own = Plain::new(&hidden, &head);
        match &reference_head.storage {
            Storage::F32(panels) => compare(targets.host(), &own, &InPanels::new(&reference, panels)),
            Storage::Bf16(panels) => compare(targets.host(), &own, &InPanels::new(&reference, panels)),
        }
    }

    fn token_kl_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: FlexTensor,
        rows: FlexTensor,
        targets: Indices,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let tensors = [hidden, head, reference, reference_head, rows].map(|tensor| tensor.to_contiguous());
        let [hidden, head, reference, reference_head, rows] = &tensors;
        let other = Plain::new(reference, reference_head);
        backward(&Plain::new(hidden, head), &other, values(rows), targets.host(), head_trains)
    }

    fn packed_token_kl_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        reference: FlexTensor,
        reference_head: Arc<Packed>,
        rows: FlexTensor,
        targets: Indices,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [hidden, head, reference, rows] = [hidden, head, reference, rows].map(|tensor| tensor.to_contiguous());
        let (own, rows) = (Plain::new(&hidden, &head), values(&rows));
        match &reference_head.storage {
            Storage::F32(panels) => {
                backward(&own, &InPanels::new(&reference, panels), rows, targets.host(), head_trains)
            }
            Storage::Bf16(panels) => {
                backward(&own, &InPanels::new(&reference, panels), rows, targets.host(), head_trains)
            }
        }
    }
}

/// Sums over a block of one row, with logits relative to their maxima: of e^z, of e^u, of e^u (u - z).
struct Sums {
    highest: [f32; 2],
    own: f32,
    other: f32,
    crossed: f32,
}

impl Sums {
    #[inline(always)]
    fn new(own: &[f32], other: &[f32]) -> Self {
        let highest = [max(own), max(other)];
        let mut lanes = [[0f32; 16]; 3];
        let mut add = |lane: usize, own: f32, other: f32| {
            let (z, u) = (own - highest[0], other - highest[1]);
            let weight = exp(u);
            lanes[0][lane] += exp(z);
            lanes[1][lane] += weight;
            lanes[2][lane] += weight * (u - z);
        };
        let ((own, own_rest), (other, other_rest)) = (own.as_chunks::<16>(), other.as_chunks::<16>());
        for (own, other) in own.iter().zip(other) {
            for lane in 0..16 {
                add(lane, own[lane], other[lane]);
            }
        }
        for (lane, (own, other)) in own_rest.iter().zip(other_rest).enumerate() {
            add(lane, *own, *other);
        }
        let [own, other, crossed] = lanes.map(|lanes| lanes.iter().sum());
        Self { highest, own, other, crossed }
    }
}

/// The forward pass; see [`TokenKl::token_kl`].
fn compare(targets: &[i32], own: &impl Logits, other: &impl Logits) -> (FlexTensor, FlexTensor) {
    let rows = targets.len();
    let parts: Vec<Vec<Sums>> = (0..own.blocks())
        .into_par_iter()
        .map_init(Default::default, |(z, u): &mut (Vec<f32>, Vec<f32>), block| {
            let mut sums = Vec::with_capacity(rows);
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let size = own.block(block, start, z);
                other.block(block, start, u);
                sums.extend(z.chunks_exact(size).zip(u.chunks_exact(size)).map(|(z, u)| {
                    vectorized(
                        #[inline(always)]
                        || Sums::new(z, u),
                    )
                }));
            }
            sums
        })
        .collect();
    let finish = |row: usize| {
        let sums = parts.iter().map(|sums| &sums[row]);
        let own_lse = log_sum_exp(sums.clone().map(|sums| [sums.highest[0], sums.own]));
        let other_lse = log_sum_exp(sums.clone().map(|sums| [sums.highest[1], sums.other]));
        let crossed = sums.map(|sums| {
            let [z, u] = sums.highest.map(f64::from);
            (u - other_lse).exp() * (f64::from(sums.crossed) + f64::from(sums.other) * (u - z))
        });
        let target = targets[row] as usize;
        let logp = f64::from(own.one(row, target)) - own_lse;
        let other_logp = f64::from(other.one(row, target)) - other_lse;
        let divergence = crossed.sum::<f64>() + own_lse - other_lse;
        [logp, divergence, own_lse, other_lse, other_logp].map(|value| value as f32)
    };
    let found: Vec<[f32; 5]> = (0..rows).into_par_iter().map(finish).collect();
    let of = |range: Range<usize>| range.flat_map(|at| found.iter().map(move |row| row[at])).collect();
    (tensor(of(0..2), [2, rows]), tensor(of(2..5), [3, rows]))
}

/// The backward pass; see [`TokenKl::token_kl_backward`].
fn backward(
    own: &Plain,
    other: &impl Logits,
    rows: &[f32],
    targets: &[i32],
    head_trains: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let count = targets.len();
    own.backward(head_trains, |block, start, errors, spare| {
        let size = own.block(block, start, errors);
        other.block(block, start, spare);
        for (row, (errors, others)) in (start..).zip(errors.chunks_exact_mut(size).zip(spare.chunks_exact(size))) {
            let [own_lse, other_lse, a, b] = [0, 1, 2, 3].map(|at| rows[at * count + row]);
            vectorized(
                #[inline(always)]
                || {
                    for (error, other) in errors.iter_mut().zip(others) {
                        *error = (b - a) * exp(*error - own_lse) - b * exp(*other - other_lse);
                    }
                },
            );
            if let Some(hit) = errors.get_mut((targets[row] as usize).wrapping_sub(block * BLOCK)) {
                *hit += a;
            }
        }
        size
    })
}
