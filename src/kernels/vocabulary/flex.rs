//! Blocks of logits that fit the L2 cache, under a plain or a packed head.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use crate::kernels::flex::matrix::Matrix;
use crate::kernels::flex::memory::{Shared, sum, tensor, values};
use crate::kernels::flex::product::product;
use crate::kernels::flex::simd::{dot, vectorized};
use crate::kernels::flex::tile::{Dtype, PANEL};
use crate::kernels::packed::{Activations, Panels};

/// Rows and vocabulary entries of a block of logits: 480 KiB, which fits the L2 cache. Blocks are whole panels, so that a plain and a
/// packed head have the same blocks.
pub(in crate::kernels) const BLOCK_ROWS: usize = 256;
pub(in crate::kernels) const BLOCK: usize = PANELS * PANEL;
const PANELS: usize = 10;
/// Tasks of a backward pass, each with its own sum of the gradients of hidden states.
const STRIPS: usize = 8;

/// The logits of hidden states under an output head.
pub(in crate::kernels) trait Logits: Sync {
    /// Blocks of the vocabulary.
    fn blocks(&self) -> usize;

    /// Logits of block `block` for up to [`BLOCK_ROWS`] rows from `start` on, `[rows, size]`; returns `size`.
    fn block(&self, block: usize, start: usize, out: &mut Vec<f32>) -> usize;

    /// The logit of one row and entry.
    fn one(&self, row: usize, entry: usize) -> f32;
}

/// The logarithm of the sum of `sum e^highest` over the `[highest, sum]` of blocks.
pub(in crate::kernels) fn log_sum_exp(blocks: impl Iterator<Item = [f32; 2]> + Clone) -> f64 {
    let highest = blocks.clone().map(|[highest, _]| highest).fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = blocks.map(|[own, sum]| f64::from(sum * (own - highest).exp())).sum();
    f64::from(highest) + total.ln()
}

/// Logits under a head in f32, `[vocabulary, d]`.
pub(in crate::kernels) struct Plain<'a> {
    hidden: &'a [f32],
    head: &'a [f32],
    d: usize,
    vocabulary: usize,
}

impl<'a> Plain<'a> {
    pub(in crate::kernels) fn new(hidden: &'a FlexTensor, head: &'a FlexTensor) -> Self {
        let [vocabulary, d] = head.shape().dims();
        Self { hidden: values(hidden), head: values(head), d, vocabulary }
    }

    fn matrix(&self, x: &[f32], row: usize) -> Matrix {
        Matrix { data: x[row * self.d..].as_ptr(), row_stride: self.d, col_stride: 1 }
    }

    /// Gradients with respect to hidden and, if `head_trains`, head. `errors` writes the gradient of the logits of a block into its
    /// first buffer, in the layout of [`Logits::block`], and returns the size of the block; the second buffer is scratch space.
    pub(in crate::kernels) fn backward(
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
                    let errors = Matrix { data: buffer.as_ptr(), row_stride: size, col_stride: 1 };
                    let transposed = errors.transposed();
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
        let grad_hidden = sum(strips);
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
        let entries = self.matrix(self.head, first).transposed();
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
            || dot(hidden, entry),
        )
    }
}

/// Logits under a packed head.
pub(in crate::kernels) struct InPanels<'a, N> {
    head: &'a Panels<N>,
    /// One for every [`BLOCK_ROWS`] rows.
    activations: Vec<Activations<N>>,
}

impl<'a, N: Dtype> InPanels<'a, N> {
    pub(in crate::kernels) fn new(hidden: &FlexTensor, head: &'a Panels<N>) -> Self {
        let chunks = values(hidden).par_chunks(BLOCK_ROWS * head.shape()[1]);
        let split = |x| {
            let mut activations = Activations::default();
            head.split(x, &mut activations);
            activations
        };
        Self { head, activations: chunks.map(split).collect() }
    }
}

impl<N: Dtype> Logits for InPanels<'_, N> {
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
