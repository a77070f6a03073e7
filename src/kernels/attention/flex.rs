//! Span attention on flex: tiles of up to [`TILE`] rows of one head, in parallel.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{Segment, SpanAttention, Spans};
use crate::kernels::flex::matrix::Matrix;
use crate::kernels::flex::memory::{Shared, tensor, values};
use crate::kernels::flex::product::product;
use crate::kernels::flex::simd::{dot, exp, exp_shifted, max, vectorized};

/// Rows of a tile of scores.
const TILE: usize = 64;

impl SpanAttention for Flex {
    fn span_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, spans: Spans) -> (FlexTensor, FlexTensor) {
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let (count, heads) = (q.shape()[0], spans.heads);
        let (mut out, mut lse) = (vec![0f32; values(&q).len()], vec![0f32; count * heads]);
        let (out_place, lse_place) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
        let layout = Rows { q: values(&q), k: values(&k), v: values(&v), spans: &spans };
        let tiles = spans.segments.par_iter().flat_map(|segment| {
            let tiles = (0..segment.rows).into_par_iter().step_by(TILE);
            tiles.flat_map_iter(move |from| (0..heads).map(move |head| (segment, from, head)))
        });
        tiles.for_each_init(Vec::new, |scores, (segment, from, head)| {
            let tile = Tile::new(&layout, segment, from, head);
            // SAFETY: each (tile, head) writes its own rows and columns of `out` and `lse`.
            unsafe {
                tile.scores(scores);
                for (index, row) in scores.chunks_exact_mut(tile.keys).enumerate() {
                    let visible = tile.visible(index);
                    let scores = &mut row[visible.clone()];
                    let lse = vectorized(
                        #[inline(always)]
                        || {
                            let highest = max(scores);
                            let total = exp_shifted(scores, highest);
                            let share = 1.0 / total;
                            scores.iter_mut().for_each(|weight| *weight *= share);
                            highest + total.ln()
                        },
                    );
                    mask(row, visible);
                    *lse_place.at((tile.row + index) * heads + head) = lse;
                }
                let place = out_place.at(tile.row * layout.width() + tile.column);
                tile.times_keys(scores, layout.v, place, layout.width(), 1.0);
            }
        });
        let width = layout.width();
        (tensor(out, [count, width]), tensor(lse, [count, heads]))
    }

    fn span_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        out: FlexTensor,
        lse: FlexTensor,
        grad: FlexTensor,
        spans: Spans,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [q, k, v, out, lse, grad] = [q, k, v, out, lse, grad].map(|tensor| tensor.to_contiguous());
        let count = q.shape()[0];
        let layout = Rows { q: values(&q), k: values(&k), v: values(&v), spans: &spans };
        let (out, lse, grad) = (values(&out), values(&lse), values(&grad));
        let (width, kv_width) = (layout.width(), layout.kv_width());
        let mut grad_q = vec![0f32; count * width];
        let (mut grad_k, mut grad_v) = (vec![0f32; count * kv_width], vec![0f32; count * kv_width]);
        let places = [&mut grad_q, &mut grad_k, &mut grad_v].map(|grad| Shared(grad.as_mut_ptr()));
        let [q_place, k_place, v_place] = places;

        // A task owns a key head of a prompt and all its answers, so no other task adds to the same rows.
        let prompts = spans.segments.iter().enumerate().filter(|(_, segment)| segment.prefix.is_none());
        let families: Vec<Vec<&Segment>> = prompts
            .map(|(index, prompt)| {
                let answers = spans.segments.iter().filter(|segment| segment.prefix == Some(index));
                std::iter::once(prompt).chain(answers).collect()
            })
            .collect();
        let tasks = families
            .par_iter()
            .flat_map(|family| (0..spans.kv_heads).into_par_iter().map(move |kv_head| (family, kv_head)));
        tasks.for_each_init(<(Vec<f32>, Vec<f32>)>::default, |(weights, grads), (family, kv_head)| {
            let heads = kv_head * spans.group()..(kv_head + 1) * spans.group();
            let tiles = family.iter().flat_map(|segment| {
                let heads = heads.clone();
                (0..segment.rows)
                    .step_by(TILE)
                    .flat_map(move |from| heads.clone().map(move |head| (segment, from, head)))
            });
            for (segment, from, head) in tiles {
                let tile = Tile::new(&layout, segment, from, head);
                // SAFETY: rows of `grad_q` belong to this tile and head; rows of `grad_k` and `grad_v` to this family
                // and key head, which only this task touches.
                unsafe {
                    tile.scores(weights);
                    tile.grad_weights(grad, grads);
                    let rows = weights.chunks_exact_mut(tile.keys).zip(grads.chunks_exact_mut(tile.keys));
                    for (index, (weights, grads)) in rows.enumerate() {
                        let visible = tile.visible(index);
                        let pairs = weights[visible.clone()].iter_mut().zip(&mut grads[visible.clone()]);
                        let place = (tile.row + index) * width + tile.column;
                        let place = place..place + spans.head_dim;
                        let lse = lse[(tile.row + index) * spans.heads + head];
                        vectorized(
                            #[inline(always)]
                            || {
                                let shared = dot(&out[place.clone()], &grad[place]);
                                for (weight, grad) in pairs {
                                    *weight = exp(*weight - lse);
                                    *grad = *weight * (*grad - shared);
                                }
                            },
                        );
                        mask(weights, visible.clone());
                        mask(grads, visible);
                    }
                    let scale = spans.scale;
                    tile.times_keys(grads, layout.k, q_place.at(tile.row * width + tile.column), width, scale);
                    tile.add_to_keys(grads, layout.q, k_place, scale);
                    tile.add_to_keys(weights, grad, v_place, 1.0);
                }
            }
        });
        (tensor(grad_q, [count, width]), tensor(grad_k, [count, kv_width]), tensor(grad_v, [count, kv_width]))
    }
}

/// Zeroes the entries of a row of scores that are masked.
fn mask(row: &mut [f32], visible: Range<usize>) {
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
}

/// The inputs of a call as slices.
struct Rows<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    spans: &'a Spans,
}

impl Rows<'_> {
    fn width(&self) -> usize {
        self.spans.heads * self.spans.head_dim
    }

    fn kv_width(&self) -> usize {
        self.spans.kv_heads * self.spans.head_dim
    }
}

/// Up to [`TILE`] rows of one segment and one head, against all keys that they attend to.
struct Tile<'a> {
    rows: &'a Rows<'a>,
    /// First row in the stream, and number of rows.
    row: usize,
    count: usize,
    /// First column of the head in queries, and in keys.
    column: usize,
    kv_column: usize,
    /// Position of the first row; positions count from the first row of the prefix.
    position: usize,
    /// Position of the first key that a row of the tile attends to, and number of keys.
    first: usize,
    keys: usize,
    /// Rows of the prefix.
    before: usize,
    /// First row of the prefix's keys, and of the segment's own.
    starts: [usize; 2],
}

impl<'a> Tile<'a> {
    fn new(rows: &'a Rows<'a>, segment: &Segment, from: usize, head: usize) -> Self {
        let spans = rows.spans;
        let prefix = spans.prefix(segment);
        let count = TILE.min(segment.rows - from);
        let before = prefix.map_or(0, |prefix| prefix.rows);
        let position = before + from;
        let first = spans.visible(position).start;
        Self {
            rows,
            row: segment.start + from,
            count,
            column: head * spans.head_dim,
            kv_column: head / spans.group() * spans.head_dim,
            position,
            first,
            keys: position + count - first,
            before,
            starts: [prefix.map_or(0, |prefix| prefix.start), segment.start],
        }
    }

    /// The columns of the tile that its row `index` attends to.
    fn visible(&self, index: usize) -> Range<usize> {
        let visible = self.rows.spans.visible(self.position + index);
        visible.start - self.first..visible.end - self.first
    }

    /// The two blocks of keys: (first column in the tile, first row in the stream, rows).
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (first, end) = (self.first, self.first + self.keys);
        let blocks = [(0..self.before, self.starts[0]), (self.before..end, self.starts[1])];
        blocks.into_iter().filter_map(move |(positions, start)| {
            let from = positions.start.max(first);
            (from < positions.end).then(|| (from - first, start + from - positions.start, positions.end - from))
        })
    }

    /// The tile's own rows of a `[rows, heads * d]` matrix.
    ///
    /// # Safety
    /// `x` has the layout of the queries.
    unsafe fn own(&self, x: &[f32]) -> Matrix {
        let width = self.rows.width();
        // SAFETY: the tile lies inside the queries.
        Matrix { data: unsafe { x.as_ptr().add(self.row * width + self.column) }, row_stride: width, col_stride: 1 }
    }

    /// The rows from `start` on of a `[rows, kv_heads * d]` matrix.
    ///
    /// # Safety
    /// `x` has the layout of the keys.
    unsafe fn key_rows(&self, x: &[f32], start: usize) -> Matrix {
        let width = self.rows.kv_width();
        // SAFETY: the block lies inside the keys.
        Matrix { data: unsafe { x.as_ptr().add(start * width + self.kv_column) }, row_stride: width, col_stride: 1 }
    }

    /// `out = x K^T * scale` for the tile's rows of `x`: `[count, keys]`.
    unsafe fn against(&self, x: &[f32], keys: &[f32], out: &mut Vec<f32>, scale: f32) {
        out.clear();
        out.reserve(self.count * self.keys);
        for (column, start, rows) in self.blocks() {
            // SAFETY: layouts as in `own` and `key_rows`; `out` has room for `count * keys` values.
            unsafe {
                let keys = self.key_rows(keys, start).transposed();
                let shape = [self.count, rows, self.rows.spans.head_dim];
                product(shape, out.as_mut_ptr().add(column), self.keys, self.own(x), keys, false, scale);
            }
        }
        // SAFETY: the blocks are all columns of the tile, and each was written.
        unsafe { out.set_len(self.count * self.keys) };
    }

    /// Scaled scores, `[count, keys]`, not masked.
    ///
    /// # Safety
    /// The tile lies inside the inputs.
    unsafe fn scores(&self, out: &mut Vec<f32>) {
        // SAFETY: the caller's contract.
        unsafe { self.against(self.rows.q, self.rows.k, out, self.rows.spans.scale) }
    }

    /// Gradients of the attention weights, `[count, keys]`, given that of the output.
    ///
    /// # Safety
    /// As for `scores`; `grad` has the layout of the queries.
    unsafe fn grad_weights(&self, grad: &[f32], out: &mut Vec<f32>) {
        // SAFETY: the caller's contract.
        unsafe { self.against(grad, self.rows.v, out, 1.0) }
    }

    /// `out = weights @ keys * scale` into the tile's rows, `[count, d]` with row stride `stride`.
    ///
    /// # Safety
    /// `keys` has the layout of the keys; no other task accesses the rows at `out`.
    unsafe fn times_keys(&self, weights: &[f32], keys: &[f32], out: *mut f32, stride: usize, scale: f32) {
        for (index, (column, start, rows)) in self.blocks().enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                let weights = Matrix { data: weights.as_ptr().add(column), row_stride: self.keys, col_stride: 1 };
                let shape = [self.count, self.rows.spans.head_dim, rows];
                product(shape, out, stride, weights, self.key_rows(keys, start), index > 0, scale);
            }
        }
    }

    /// Adds `weights^T @ x * scale`, `[keys, d]`, to the rows of the keys at `out`.
    ///
    /// # Safety
    /// `x` has the layout of the queries and `out` that of the keys; no other task accesses the rows of this prompt and its answers.
    unsafe fn add_to_keys(&self, weights: &[f32], x: &[f32], out: Shared, scale: f32) {
        let width = self.rows.kv_width();
        for (column, start, rows) in self.blocks() {
            // SAFETY: the caller's contract.
            unsafe {
                let weights = Matrix { data: weights.as_ptr().add(column), row_stride: 1, col_stride: self.keys };
                let shape = [rows, self.rows.spans.head_dim, self.count];
                product(shape, out.at(start * width + self.kv_column), width, weights, self.own(x), true, scale);
            }
        }
    }
}
