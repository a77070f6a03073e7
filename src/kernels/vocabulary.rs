//! The vocabulary in blocks, as the kernels of the output head go through it: logits `[rows, vocabulary]` exist for one
//! block of rows and entries at a time.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{IndexingUpdateOp, Slice, TensorData};
use rayon::prelude::*;

use super::packed::{Activations, Panels};
use super::product::{Matrix, product};
use super::simd::vectorized;
use super::tile::{Number, PANEL};
use super::{Shared, tensor, values};

/// Most logits that a portable body holds at a time.
const LOGITS: usize = 16 << 20;

/// The targets in pieces whose logits fit the limit, each with its first row.
pub(super) fn chunks(targets: &[i32], vocabulary: usize) -> impl Iterator<Item = (usize, &[i32])> {
    let size = (LOGITS / vocabulary).max(1);
    targets.chunks(size).enumerate().map(move |(index, targets)| (index * size, targets))
}

/// Logits of `count` rows from `start` on, `[count, vocabulary]`.
pub(super) fn logits<B: Backend>(
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
pub(super) fn column<B: Backend>(targets: &[i32], device: &Device<B>) -> IntTensor<B> {
    let data = TensorData::new(targets.to_vec(), [targets.len(), 1]);
    let dtype = get_or_init_device_settings::<B>(device).int_dtype;
    B::int_from_data(data.convert_dtype(dtype.into()), device)
}

/// The portable backward pass: gradients with respect to hidden and, if it trains, head. `errors` gives those with respect to
/// `count` rows' logits from `start` on, less what the target's logit gets beside, and that as a column.
pub(super) fn portable_errors<B: Backend>(
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

/// Rows and vocabulary entries of a block of logits: 480 KiB, which stays in the second-level cache. A packed head comes in
/// whole panels, so that two heads, one of them packed, have the same blocks.
pub(super) const BLOCK_ROWS: usize = 256;
pub(super) const BLOCK: usize = PANELS * PANEL;
const PANELS: usize = 10;
/// Tasks of a backward pass, each with its own sum of the hidden rows' gradients.
const STRIPS: usize = 8;

/// The logits of hidden rows under an output head.
pub(super) trait Logits: Sync {
    /// Blocks of the vocabulary.
    fn blocks(&self) -> usize;

    /// Logits of block `block` for up to [`BLOCK_ROWS`] rows from `start` on, `[rows, size]`; returns `size`.
    fn block(&self, block: usize, start: usize, out: &mut Vec<f32>) -> usize;

    /// The logit of one row and entry.
    fn one(&self, row: usize, entry: usize) -> f32;
}

/// Logarithm of the sum of `sum e^highest` over blocks' `[highest, sum]`.
pub(super) fn log_sum_exp(blocks: impl Iterator<Item = [f32; 2]> + Clone) -> f64 {
    let highest = blocks.clone().map(|[highest, _]| highest).fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = blocks.map(|[own, sum]| f64::from(sum * (own - highest).exp())).sum();
    f64::from(highest) + total.ln()
}

/// Logits under a head in f32, `[vocabulary, d]`.
pub(super) struct Plain<'a> {
    hidden: &'a [f32],
    head: &'a [f32],
    d: usize,
    vocabulary: usize,
}

impl<'a> Plain<'a> {
    pub(super) fn new(hidden: &'a FlexTensor, head: &'a FlexTensor) -> Self {
        let [vocabulary, d] = head.shape().dims();
        Self { hidden: values(hidden), head: values(head), d, vocabulary }
    }

    fn matrix(&self, x: &[f32], row: usize) -> Matrix {
        Matrix { data: x[row * self.d..].as_ptr(), rows: self.d, columns: 1 }
    }

    /// Gradients with respect to hidden and, if it trains, head. `errors` puts those with respect to a block's logits into
    /// its first buffer, laid out as [`Logits::block`] does, and returns the block's size; the second is its own to use.
    pub(super) fn backward(
        &self,
        head_trains: bool,
        errors: impl Fn(usize, usize, &mut Vec<f32>, &mut Vec<f32>) -> usize + Sync,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let d = self.d;
        let rows = self.hidden.len() / d;
        let mut grad_head = vec![0f32; if head_trains { self.vocabulary * d } else { 0 }];
        let place = Shared(grad_head.as_mut_ptr());
        // A fixed number of strips, summed in order: the result does not depend on the number of threads.
        let strip = self.blocks().div_ceil(STRIPS);
        let strips: Vec<Vec<f32>> = (0..self.blocks())
            .collect::<Vec<_>>()
            .par_chunks(strip)
            .map(|strip| {
                let (mut grad_hidden, mut buffer, mut spare) = (vec![0f32; rows * d], Vec::new(), Vec::new());
                for (&block, start) in
                    strip.iter().flat_map(|block| (0..rows).step_by(BLOCK_ROWS).map(move |start| (block, start)))
                {
                    let first = block * BLOCK;
                    let size = errors(block, start, &mut buffer, &mut spare);
                    let count = buffer.len() / size;
                    let errors = Matrix { data: buffer.as_ptr(), rows: size, columns: 1 };
                    let transposed = errors.turned();
                    let entries = self.matrix(self.head, first);
                    let hidden = self.matrix(self.hidden, start);
                    // SAFETY: the block's rows of `grad_head` are this task's own, `grad_hidden` is this strip's.
                    unsafe {
                        let out = grad_hidden.as_mut_ptr().add(start * d);
                        product([count, d, size], out, d, errors, entries, true, 1.0);
                        if head_trains {
                            product([size, d, count], place.at(first * d), d, transposed, hidden, true, 1.0);
                        }
                    }
                }
                grad_hidden
            })
            .collect();
        let grad_hidden = super::sum(strips);
        (tensor(grad_hidden, [rows, d]), head_trains.then(|| tensor(grad_head, [self.vocabulary, d])))
    }
}

impl Logits for Plain<'_> {
    fn blocks(&self) -> usize {
        self.vocabulary.div_ceil(BLOCK)
    }

    fn block(&self, block: usize, start: usize, out: &mut Vec<f32>) -> usize {
        let first = block * BLOCK;
        let size = BLOCK.min(self.vocabulary - first);
        let count = BLOCK_ROWS.min(self.hidden.len() / self.d - start);
        out.clear();
        out.reserve(count * size);
        let entries = self.matrix(self.head, first).turned();
        let hidden = self.matrix(self.hidden, start);
        // SAFETY: `out` has room for `count * size` values and is ours alone; the slices hold the rows asked for.
        unsafe {
            product([count, size, self.d], out.as_mut_ptr(), size, hidden, entries, false, 1.0);
            out.set_len(count * size);
        }
        size
    }

    fn one(&self, row: usize, entry: usize) -> f32 {
        let (hidden, entry) = (&self.hidden[row * self.d..][..self.d], &self.head[entry * self.d..][..self.d]);
        vectorized(
            #[inline(always)]
            || super::simd::dot(hidden, entry),
        )
    }
}

/// Logits under a packed head.
pub(super) struct InPanels<'a, N> {
    head: &'a Panels<N>,
    /// Of every [`BLOCK_ROWS`] hidden rows.
    activations: Vec<Activations<N>>,
}

impl<'a, N: Number> InPanels<'a, N> {
    pub(super) fn new(hidden: &FlexTensor, head: &'a Panels<N>) -> Self {
        let chunks = values(hidden).par_chunks(BLOCK_ROWS * head.shape()[1]);
        let split = |x| {
            let mut activations = Activations::default();
            head.split(x, &mut activations);
            activations
        };
        Self { head, activations: chunks.map(split).collect() }
    }
}

impl<N: Number> Logits for InPanels<'_, N> {
    fn blocks(&self) -> usize {
        self.head.count().div_ceil(PANELS)
    }

    fn block(&self, block: usize, start: usize, out: &mut Vec<f32>) -> usize {
        let panels = block * PANELS..((block + 1) * PANELS).min(self.head.count());
        self.head.logits(&self.activations[start / BLOCK_ROWS], panels, out)
    }

    fn one(&self, row: usize, entry: usize) -> f32 {
        self.head.dot(&self.activations[row / BLOCK_ROWS], row % BLOCK_ROWS, entry)
    }
}
