//! Frozen weights in bf16, packed once for the processor's bf16 dot products, and the two products that need them: a
//! linear layer, and blocks of logits.
//!
//! ```text
//! weight [out, in]  ->  panels of 48 outputs, each [in / 2][48][2]: a pair of inputs meets 48 outputs at a time
//! ```
//!
//! An activation is rounded to bf16 ([`Precision::Bf16`]), or split into two bf16 numbers whose sum is it up to 2^-16
//! ([`Precision::Bf16x2`]). Sums are f32 either way. Worth it with AVX512-BF16 ([`Packed::is_fast`]);
//! elsewhere weights stay f32.

mod tile;

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use half::bf16;
use rayon::prelude::*;

use super::{Shared, tensor, values};
use crate::model::Precision;
pub(super) use tile::PANEL;
use tile::TILE;

/// Rows of a task; their activations stay in the second-level cache.
const ROWS: usize = 64;

/// A frozen weight `[out, in]`.
#[derive(Debug)]
pub struct Packed {
    /// `[panels][pairs of inputs][PANEL][2]`, zero beyond the weight's edge.
    values: Vec<bf16>,
    outputs: usize,
    inputs: usize,
    precision: Precision,
}

/// Activations in bf16, `[rows up to a whole tile][pairs of inputs][2]`, once or as high and low part.
pub(super) struct Activations {
    parts: Vec<Vec<bf16>>,
    count: usize,
}

impl Packed {
    /// Whether this processor multiplies bf16 in hardware; without it, f32 is faster.
    pub fn is_fast() -> bool {
        tile::is_fast()
    }

    /// Packs `[outputs, inputs]`; `value` gives output `o` and input `i`.
    pub fn new(
        [outputs, inputs]: [usize; 2],
        precision: Precision,
        value: impl Fn(usize, usize) -> bf16 + Sync,
    ) -> Self {
        let size = inputs.div_ceil(2) * 2 * PANEL;
        let mut values = vec![bf16::ZERO; outputs.div_ceil(PANEL) * size];
        values.par_chunks_exact_mut(size).enumerate().for_each(|(panel, values)| {
            for (pair, values) in values.chunks_exact_mut(2 * PANEL).enumerate() {
                for output in 0..PANEL.min(outputs - panel * PANEL) {
                    for input in 0..2.min(inputs - 2 * pair) {
                        values[2 * output + input] = value(panel * PANEL + output, 2 * pair + input);
                    }
                }
            }
        });
        Self { values, outputs, inputs, precision }
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Panels of outputs.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Row `output` in f32, as an embedding table is read.
    pub fn row(&self, output: usize) -> impl Iterator<Item = f32> + '_ {
        let panel = &self.values[output / PANEL * self.panel_size()..][..self.panel_size()];
        let pairs = panel.chunks_exact(2 * PANEL).map(move |pair| &pair[output % PANEL * 2..][..2]);
        pairs.flatten().take(self.inputs).map(|value| value.to_f32())
    }

    /// The weight in f32, `[outputs, inputs]`.
    pub(super) fn unpack<B: Backend>(&self, device: &burn::backend::tensor::Device<B>) -> FloatTensor<B> {
        let values: Vec<f32> = (0..self.outputs).flat_map(|output| self.row(output)).collect();
        B::float_from_data(TensorData::new(values, self.shape()), device)
    }

    fn panel_size(&self) -> usize {
        self.inputs.div_ceil(2) * 2 * PANEL
    }

    /// `x [rows, inputs]` for products with this weight.
    pub(super) fn activations(&self, x: &[f32]) -> Activations {
        let count = x.len() / self.inputs;
        let width = self.inputs.div_ceil(2) * 2;
        let mut parts = vec![vec![bf16::ZERO; count.div_ceil(TILE) * TILE * width]];
        if self.precision == Precision::Bf16x2 {
            parts.push(parts[0].clone());
        }
        let mut lost = vec![0f32; self.inputs];
        for (row, x) in x.chunks_exact(self.inputs).enumerate() {
            let place = row * width..row * width + self.inputs;
            tile::round(x, &mut parts[0][place.clone()]);
            if let [high, low] = &mut parts[..] {
                for ((lost, x), high) in lost.iter_mut().zip(x).zip(&high[place.clone()]) {
                    *lost = x - high.to_f32();
                }
                tile::round(&lost, &mut low[place]);
            }
        }
        Activations { parts, count }
    }

    /// `out [rows, outputs of panels] = x W^T`, with `stride` numbers from one row of `out` to the next.
    ///
    /// # Safety
    /// `out` is valid for these writes and nobody else's meanwhile.
    unsafe fn times(&self, x: &Activations, panels: Range<usize>, out: *mut f32, stride: usize) {
        let size = self.inputs.div_ceil(2) * 2 * TILE;
        for panel in panels.clone() {
            let weight = &self.values[panel * self.panel_size()..][..self.panel_size()];
            let columns = PANEL.min(self.outputs - panel * PANEL);
            for row in (0..x.count).step_by(TILE) {
                let mut sums = [[0f32; PANEL]; TILE];
                for part in &x.parts {
                    tile::add_products(&part[row / TILE * size..][..size], weight, &mut sums);
                }
                for (offset, sums) in sums.iter().enumerate().take(x.count - row) {
                    // SAFETY: the caller's contract; `columns` numbers of row `row + offset`.
                    unsafe {
                        let out = out.add((row + offset) * stride + (panel - panels.start) * PANEL);
                        out.copy_from_nonoverlapping(sums.as_ptr(), columns);
                    }
                }
            }
        }
    }

    /// Logits for the outputs of `panels`, `[rows, outputs]`; returns the number of outputs.
    pub(super) fn logits(&self, x: &Activations, panels: Range<usize>, out: &mut Vec<f32>) -> usize {
        let stride = (panels.end * PANEL).min(self.outputs) - panels.start * PANEL;
        out.clear();
        out.resize(x.count * stride, 0.0);
        // SAFETY: `out` holds `rows * stride` numbers and is ours.
        unsafe { self.times(x, panels, out.as_mut_ptr(), stride) };
        stride
    }

    /// The product of one row and one output.
    pub(super) fn dot(&self, x: &Activations, row: usize, output: usize) -> f32 {
        let width = self.inputs.div_ceil(2) * 2;
        let part = |part: &Vec<bf16>| {
            let x = &part[row * width..][..self.inputs];
            x.iter().zip(self.row(output)).map(|(x, w)| f64::from(x.to_f32()) * f64::from(w)).sum::<f64>()
        };
        x.parts.iter().map(part).sum::<f64>() as f32
    }
}

/// `x W^T` for a packed weight: x `[rows, in]`, result `[rows, out]`.
pub fn packed_linear(x: Tensor<2>, weight: Arc<Packed>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PackedLinear>::packed_linear(x.into_dispatch(), weight))
}

/// The kernel; see [`packed_linear`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait PackedLinear: Backend {
    /// `x W^T`.
    fn packed_linear(x: FloatTensor<Self>, weight: Arc<Packed>) -> FloatTensor<Self> {
        let device = x.device();
        Self::float_matmul(x, Self::float_transpose(weight.unpack::<Self>(&device)))
    }
}

#[cfg(feature = "tch")]
impl PackedLinear for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl PackedLinear for burn::backend::Cube {}

impl PackedLinear for Flex {
    fn packed_linear(x: FlexTensor, weight: Arc<Packed>) -> FlexTensor {
        let x = x.to_contiguous();
        let [outputs, inputs] = weight.shape();
        let rows = x.shape()[0];
        let mut out = vec![0f32; rows * outputs];
        let place = Shared(out.as_mut_ptr());
        values(&x).par_chunks(ROWS * inputs).enumerate().for_each(|(task, x)| {
            let x = weight.activations(x);
            // SAFETY: every task writes the rows of its own chunk.
            unsafe { weight.times(&x, 0..weight.panels(), place.at(task * ROWS * outputs), outputs) };
        });
        tensor(out, [rows, outputs])
    }
}

impl<B: PackedLinear, C: CheckpointStrategy> PackedLinear for Autodiff<B, C> {
    fn packed_linear(x: FloatTensor<Self>, weight: Arc<Packed>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: PackedLinear> Backward<B, 1> for Node {
            type State = Arc<Packed>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let weight = ops.state.unpack::<B>(&grad.device());
                    grads.register::<B>(node.id, B::float_matmul(grad, weight));
                }
            }
        }
        let nodes = [x.node()];
        let out = B::packed_linear(x.into_primitive(), weight.clone());
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(weight, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::token_logps::{packed_token_logps, token_logps};
    use burn::tensor::{Device, Distribution};

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    /// A weight whose numbers are exact in bf16, plain and packed.
    fn weight(shape: [usize; 2], precision: Precision) -> (Tensor<2>, Arc<Packed>) {
        let values: Vec<bf16> = numbers(random(shape)).into_iter().map(bf16::from_f32).collect();
        let packed = Packed::new(shape, precision, |output, input| values[output * shape[1] + input]);
        let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
        (Tensor::from_data(TensorData::new(values, shape), &Device::flex()), Arc::new(packed))
    }

    fn difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        numbers(a).iter().zip(numbers(b)).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
    }

    #[test]
    fn a_packed_product_is_the_product() {
        for (rows, inputs, outputs) in [(1, 1, 1), (7, 33, 50), (130, 64, 96), (65, 2, 47)] {
            let x = random([rows, inputs]);
            let (plain, packed) = weight([outputs, inputs], Precision::Bf16x2);
            let want = x.clone().matmul(plain.transpose());
            assert!(difference(packed_linear(x.clone(), packed), want) < 1e-4, "{rows} {inputs} {outputs}");

            let rounded = numbers(x.clone()).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
            let rounded = Tensor::<2>::from_data(TensorData::new(rounded, [rows, inputs]), &Device::flex());
            let (plain, packed) = weight([outputs, inputs], Precision::Bf16);
            let want = rounded.matmul(plain.transpose());
            assert!(difference(packed_linear(x, packed), want) < 1e-4, "{rows} {inputs} {outputs}");
        }
    }

    #[test]
    fn a_packed_head_gives_the_log_probabilities() {
        for (rows, vocabulary, d) in [(5, 40, 8), (300, 1100, 17), (1, 1, 4)] {
            let hidden = random([rows, d]);
            let (plain, packed) = weight([vocabulary, d], Precision::Bf16x2);
            let targets: Arc<[i32]> = (0..rows).map(|row| (row * 7919 % vocabulary) as i32).collect();
            let got = packed_token_logps(hidden.clone(), packed, targets.clone());
            assert!(difference(got, token_logps(hidden, plain, targets)) < 1e-4, "{rows} {vocabulary} {d}");
        }
    }

    #[test]
    fn gradients_flow_through_a_packed_weight() {
        let (plain, packed) = weight([50, 33], Precision::Bf16x2);
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data(random([7, 33]).into_data(), &device).require_grad();
        let out = packed_linear(x.clone(), packed);
        let slopes = random([7, 50]);
        let gradients = (out * Tensor::from_data(slopes.clone().into_data(), &device)).sum().backward();
        let grad = x.grad(&gradients).unwrap();
        assert!(difference(grad, slopes.matmul(plain)) < 1e-4);
    }
}
