//! The packed linear layer on flex: parallel over rows, or over outputs if there are few rows.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{Activations, Packed, PackedLinear, Panels, Storage};
use crate::kernels::flex::memory::{Shared, tensor, values};
use crate::kernels::flex::tile::{Dtype, PANEL, TILE};

/// Rows per task, whose activations fit the L2 cache. With fewer rows in total, tasks divide the outputs.
const ROWS: usize = 64;

impl PackedLinear for Flex {
    fn packed_linear(x: FlexTensor, weight: Arc<Packed>) -> FlexTensor {
        match &weight.storage {
            Storage::F32(panels) => product(x, panels),
            Storage::Bf16(panels) => product(x, panels),
        }
    }
}

fn product<N: Dtype>(x: FlexTensor, weight: &Panels<N>) -> FlexTensor {
    let x = x.to_contiguous();
    let [outputs, inputs] = weight.shape();
    let rows = x.shape()[0];
    let mut out = Vec::with_capacity(rows * outputs);
    let place = Shared(out.as_mut_ptr());
    if rows <= ROWS {
        let mut activations = Activations::default();
        weight.split(values(&x), &mut activations);
        let share = weight.count().div_ceil(rayon::current_num_threads());
        (0..weight.count()).into_par_iter().step_by(share.max(1)).for_each(|start| {
            let panels = start..weight.count().min(start + share);
            // SAFETY: every task writes the outputs of its own panels.
            unsafe { weight.times(&activations, panels, place.at(start * PANEL), outputs) };
        });
    } else {
        let share = even_share(rows);
        let tasks = values(&x).par_chunks(share * inputs).enumerate();
        tasks.for_each_init(Activations::default, |activations, (task, x)| {
            weight.split(x, activations);
            // SAFETY: every task writes the rows of its own chunk.
            unsafe { weight.times(activations, 0..weight.count(), place.at(task * share * outputs), outputs) };
        });
    }
    // SAFETY: the tasks wrote all outputs of every row.
    unsafe { out.set_len(rows * outputs) };
    tensor(out, [rows, outputs])
}

/// Rows per task, at most [`ROWS`]: whole tiles, and the same number of tasks for every thread.
fn even_share(rows: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = rows.div_ceil(ROWS).next_multiple_of(threads);
    rows.div_ceil(tasks).next_multiple_of(TILE)
}
