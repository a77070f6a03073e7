//! The memory layout of packed weights, and their product with rows.
//!
//! ```text
//! weight [out, in]  ->  panels of 48 outputs, each [in / group][48][group]: an instruction takes a group of inputs and the outputs of a register
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::flex::tile::{Dtype, PANEL, Place, TILE};

/// A weight `[outputs, inputs]` in panels.
#[derive(Debug)]
pub(in crate::kernels) struct Panels<N> {
    /// `[panels][groups of inputs][PANEL][N::GROUP]`, zero beyond the weight's edge.
    values: Vec<N>,
    outputs: usize,
    inputs: usize,
    /// Parts that an activation is split into.
    parts: usize,
}

/// Activations `[tiles][parts][TILE][inputs up to a whole group]`, as sums of the parts that the weight asks for. The padding rows of
/// the last tile have no defined values.
pub(in crate::kernels) struct Activations<N> {
    values: Vec<N>,
    count: usize,
}

impl<N> Default for Activations<N> {
    fn default() -> Self {
        Self { values: Vec::new(), count: 0 }
    }
}

impl<N: Dtype> Panels<N> {
    /// Packs `[outputs, inputs]`; `value` gives output `o` and input `i`.
    pub(in crate::kernels) fn new(
        [outputs, inputs]: [usize; 2],
        parts: usize,
        value: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let groups = inputs.div_ceil(N::GROUP);
        let size = groups * N::GROUP * PANEL;
        let mut values = vec![N::ZERO; outputs.div_ceil(PANEL) * size];
        values.par_chunks_exact_mut(size.max(1)).enumerate().for_each(|(panel, values)| {
            for (group, values) in values.chunks_exact_mut(N::GROUP * PANEL).enumerate() {
                for output in 0..PANEL.min(outputs - panel * PANEL) {
                    for input in 0..N::GROUP.min(inputs - N::GROUP * group) {
                        let value = value(panel * PANEL + output, N::GROUP * group + input);
                        values[N::GROUP * output + input] = N::from_f32(value);
                    }
                }
            }
        });
        Self { values, outputs, inputs, parts }
    }

    /// `[outputs, inputs]`.
    pub(in crate::kernels) fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Panels of outputs.
    pub(in crate::kernels) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Row `output` in f32; for embedding tables.
    pub(in crate::kernels) fn row(&self, output: usize) -> impl Iterator<Item = f32> + '_ {
        let groups = self.panel(output / PANEL).chunks_exact(N::GROUP * PANEL);
        let values = groups.flat_map(move |group| &group[output % PANEL * N::GROUP..][..N::GROUP]);
        values.take(self.inputs).map(|value| value.to_f32())
    }

    fn panel(&self, panel: usize) -> &[N] {
        let size = self.width() * PANEL;
        &self.values[panel * size..][..size]
    }

    /// Inputs up to a whole group.
    fn width(&self) -> usize {
        self.inputs.next_multiple_of(N::GROUP)
    }

    /// Writes `x [rows, inputs]` into `out`, for products with this weight.
    pub(in crate::kernels) fn split(&self, x: &[f32], out: &mut Activations<N>) {
        out.count = x.len() / self.inputs;
        // The padding of the last group of inputs must be zero.
        if self.width() > self.inputs {
            out.values.clear();
        }
        out.values.resize(out.count.div_ceil(TILE) * self.tile(), N::ZERO);
        for (row, x) in x.chunks_exact(self.inputs).enumerate() {
            let place = self.place(row, 0);
            N::split(x, self.parts, &mut out.values[place..], TILE * self.width());
        }
    }

    /// Elements of a tile of activations.
    fn tile(&self) -> usize {
        self.parts * TILE * self.width()
    }

    /// The index of part `part` of activation `row`.
    fn place(&self, row: usize, part: usize) -> usize {
        row / TILE * self.tile() + (part * TILE + row % TILE) * self.width()
    }

    /// `out [rows, outputs of panels] = x W^T`, with the rows of `out` `row_stride` elements apart.
    ///
    /// # Safety
    /// `out` is valid for these writes, and nothing else accesses it meanwhile.
    pub(in crate::kernels) unsafe fn times(
        &self,
        x: &Activations<N>,
        panels: Range<usize>,
        out: *mut f32,
        row_stride: usize,
    ) {
        for panel in panels.clone() {
            let weight = self.panel(panel);
            let columns = PANEL.min(self.outputs - panel * PANEL);
            for (row, tile) in (0..x.count).step_by(TILE).zip(x.values.chunks_exact(self.tile())) {
                // SAFETY: the caller's contract, for `columns` columns of the rows from `row` on.
                unsafe {
                    let out = out.add(row * row_stride + (panel - panels.start) * PANEL);
                    let rows = TILE.min(x.count - row);
                    let place = Place { out, row_stride, rows, columns, keep: false, scale: 1.0 };
                    N::products(tile, self.parts, weight, place);
                }
            }
        }
    }

    /// Logits for the outputs of `panels`, `[rows, outputs]`; returns the number of outputs.
    pub(in crate::kernels) fn logits(&self, x: &Activations<N>, panels: Range<usize>, out: &mut Vec<f32>) -> usize {
        let stride = (panels.end * PANEL).min(self.outputs) - panels.start * PANEL;
        out.clear();
        out.reserve(x.count * stride);
        // SAFETY: `out` has room for `count * stride` elements, all of which are written.
        unsafe {
            self.times(x, panels, out.as_mut_ptr(), stride);
            out.set_len(x.count * stride);
        }
        stride
    }

    /// The product of one row and one output.
    pub(in crate::kernels) fn dot(&self, x: &Activations<N>, row: usize, output: usize) -> f32 {
        let part = |part: usize| {
            let x = &x.values[self.place(row, part)..][..self.inputs];
            x.iter().zip(self.row(output)).map(|(x, w)| f64::from(x.to_f32()) * f64::from(w)).sum::<f64>()
        };
        (0..self.parts).map(part).sum::<f64>() as f32
    }
}
