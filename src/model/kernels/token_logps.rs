//! Log-probabilities of given tokens, fused with the output head: `logp_i = h_i . w_{t_i} - logsumexp_v(h_i . w_v)`.
//!
//! The `[rows, vocabulary]` logits never exist: they are computed in blocks, reduced to one log-sum-exp a row, and
//! computed again block by block in the backward pass.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{
    AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension, get_or_init_device_settings,
};
use burn::tensor::{Slice, Tensor, TensorData};
use rayon::prelude::*;

use super::packed::{Number, Numbers, PANEL, Packed, Panels};
use super::simd::{exp, exp_shifted, max, vectorized};
use super::{Matrix, Shared, product, tensor, values};

/// Log-probability of `targets[i]` at every row: hidden `[rows, d]`, head `[vocabulary, d]`, result `[rows]`.
///
/// Every target must be smaller than the vocabulary.
pub fn token_logps(hidden: Tensor<2>, head: Tensor<2>, targets: Arc<[i32]>) -> Tensor<1> {
    let (logps, _) = <Dispatch as TokenLogps>::token_logps(hidden.into_dispatch(), head.into_dispatch(), targets);
    Tensor::from_dispatch(logps)
}

/// As [`token_logps`], for a frozen head.
pub fn packed_token_logps(hidden: Tensor<2>, head: Arc<Packed>, targets: Arc<[i32]>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as TokenLogps>::packed_token_logps(hidden.into_dispatch(), head, targets))
}

/// The kernel; see [`token_logps`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait TokenLogps: Backend {
    /// Log-probabilities `[rows]` and log-sum-exp `[rows]`.
    fn token_logps(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(hidden, head, targets)
    }

    /// Log-probabilities `[rows]` under a frozen head.
    fn packed_token_logps(hidden: FloatTensor<Self>, head: Arc<Packed>, targets: Arc<[i32]>) -> FloatTensor<Self> {
        let device = hidden.device();
        Self::token_logps(hidden, head.unpack::<Self>(&device), targets).0
    }

    /// Gradients with respect to hidden and, if it trains, head: with `e = (onehot - softmax) * grad`, `e @ head` and
    /// `e^T @ hidden`.
    fn token_logps_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        portable_backward::<Self>(hidden, head, lse, grad, targets, head_trains)
    }
}

pub(super) fn portable<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: Arc<[i32]>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = hidden.device();
    let (mut logps, mut lses) = (Vec::new(), Vec::new());
    for (start, targets) in chunks(&targets, head.shape()[0]) {
        let logits = logits::<B>(hidden.clone(), head.clone(), start, targets.len());
        let highest = B::float_max_dim(logits.clone(), 1);
        let weights = B::float_exp(B::float_sub(logits.clone(), highest.clone()));
        let lse = B::float_add(highest, B::float_log(B::float_sum_dim(weights, 1)));
        let chosen = B::float_gather(1, logits, column::<B>(targets, &device));
        let flat = [targets.len()];
        logps.push(B::float_reshape(B::float_sub(chosen, lse.clone()), flat.into()));
        lses.push(B::float_reshape(lse, flat.into()));
    }
    (B::float_cat(logps, 0), B::float_cat(lses, 0))
}

pub(super) fn portable_backward<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    lse: FloatTensor<B>,
    grad: FloatTensor<B>,
    targets: Arc<[i32]>,
    head_trains: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let device = hidden.device();
    let [vocabulary, d] = head.shape().dims();
    let mut grad_hidden = Vec::new();
    let mut grad_head: Option<FloatTensor<B>> = None;
    for (start, targets) in chunks(&targets, vocabulary) {
        let count = targets.len();
        let part = |x: FloatTensor<B>| {
            let x = B::float_slice(x, &[Slice::from(start..start + count)]);
            B::float_reshape(x, [count, 1].into())
        };
        let logits = logits::<B>(hidden.clone(), head.clone(), start, count);
        let softmax = B::float_exp(B::float_sub(logits, part(lse.clone())));
        let grad = part(grad.clone());
        let error = B::float_neg(B::float_mul(softmax, grad.clone()));
        let update = burn::tensor::IndexingUpdateOp::Add;
        let error = B::float_scatter(1, error, column::<B>(targets, &device), grad, update);
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

/// Most logits that the portable body holds at a time.
const LOGITS: usize = 16 << 20;

/// The targets in pieces whose logits fit the limit, each with its first row.
fn chunks(targets: &[i32], vocabulary: usize) -> impl Iterator<Item = (usize, &[i32])> {
    let size = (LOGITS / vocabulary).max(1);
    targets.chunks(size).enumerate().map(move |(index, targets)| (index * size, targets))
}

fn logits<B: Backend>(hidden: FloatTensor<B>, head: FloatTensor<B>, start: usize, count: usize) -> FloatTensor<B> {
    let d = hidden.shape()[1];
    let rows = B::float_slice(hidden, &[start..start + count, 0..d].map(Slice::from));
    B::float_matmul(rows, B::float_transpose(head))
}

fn column<B: Backend>(targets: &[i32], device: &Device<B>) -> IntTensor<B> {
    let data = TensorData::new(targets.to_vec(), [targets.len(), 1]);
    let dtype = get_or_init_device_settings::<B>(device).int_dtype;
    B::int_from_data(data.convert_dtype(dtype.into()), device)
}

#[cfg(feature = "tch")]
impl TokenLogps for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl TokenLogps for burn::backend::Cube {}

/// Rows and vocabulary entries of a block of logits: 512 KiB, which stays in the second-level cache.
const BLOCK_ROWS: usize = 256;
const BLOCK_VOCABULARY: usize = 512;
/// Tasks of the backward pass, each with its own sum of the hidden rows' gradients.
const STRIPS: usize = 8;

impl TokenLogps for Flex {
    fn token_logps(hidden: FlexTensor, head: FlexTensor, targets: Arc<[i32]>) -> (FlexTensor, FlexTensor) {
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let blocks = Blocks::new(&hidden, &head);
        let rows = targets.len();
        let dot = |row: usize, target: usize| {
            vectorized(
                #[inline(always)]
                || super::simd::dot(blocks.hidden(row), blocks.entry(target)),
            )
        };
        let logits = |block: usize, start: usize, out: &mut Vec<f32>| blocks.logits(block, start, out);
        let (logps, lses) = reduce(&targets, blocks.count(), logits, dot);
        (tensor(logps, [rows]), tensor(lses, [rows]))
    }

    fn packed_token_logps(hidden: FlexTensor, head: Arc<Packed>, targets: Arc<[i32]>) -> FlexTensor {
        match &head.numbers {
            Numbers::F32(panels) => packed(hidden, panels, &targets),
            Numbers::Bf16(panels) => packed(hidden, panels, &targets),
        }
    }

    fn token_logps_backward(
        hidden: FlexTensor,
        head: FlexTensor,
        lse: FlexTensor,
        grad: FlexTensor,
        targets: Arc<[i32]>,
        head_trains: bool,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let [hidden, head, lse, grad] = [hidden, head, lse, grad].map(|tensor| tensor.to_contiguous());
        let blocks = Blocks::new(&hidden, &head);
        let (lse, grad) = (values(&lse), values(&grad));
        let (rows, d) = (targets.len(), blocks.d);
        let mut grad_head = vec![0f32; if head_trains { blocks.vocabulary * d } else { 0 }];
        let place = Shared(grad_head.as_mut_ptr());
        // A fixed number of strips, summed in order: the result does not depend on the number of threads.
        let strip = blocks.count().div_ceil(STRIPS);
        let strips: Vec<Vec<f32>> = (0..blocks.count())
            .collect::<Vec<_>>()
            .par_chunks(strip)
            .map(|strip| {
                let (mut grad_hidden, mut logits) = (vec![0f32; rows * d], Vec::new());
                for (&block, start) in
                    strip.iter().flat_map(|block| (0..rows).step_by(BLOCK_ROWS).map(move |start| (block, start)))
                {
                    let first = block * BLOCK_VOCABULARY;
                    let size = blocks.logits(block, start, &mut logits);
                    let count = logits.len() / size;
                    for (row, logits) in logits.chunks_exact_mut(size).enumerate() {
                        let (lse, grad) = (lse[start + row], grad[start + row]);
                        vectorized(
                            #[inline(always)]
                            || {
                                for logit in logits.iter_mut() {
                                    *logit = -grad * exp(*logit - lse);
                                }
                            },
                        );
                        if let Some(hit) = logits.get_mut((targets[start + row] as usize).wrapping_sub(first)) {
                            *hit += grad;
                        }
                    }
                    let errors = Matrix { data: logits.as_ptr(), rows: size, columns: 1 };
                    let transposed = Matrix { rows: 1, columns: size, ..errors };
                    let entries = blocks.matrix(blocks.head, first);
                    let hidden = blocks.matrix(blocks.hidden, start);
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
        (tensor(grad_hidden, [rows, d]), head_trains.then(|| tensor(grad_head, [blocks.vocabulary, d])))
    }
}

fn packed<N: Number>(hidden: FlexTensor, head: &Panels<N>, targets: &[i32]) -> FlexTensor {
    let hidden = hidden.to_contiguous();
    let (hidden, d) = (values(&hidden), head.shape()[1]);
    let per_block = BLOCK_VOCABULARY / PANEL;
    let panels = |block: usize| block * per_block..((block + 1) * per_block).min(head.count());
    let activations: Vec<_> = hidden.par_chunks(BLOCK_ROWS * d).map(|x| head.activations(x)).collect();
    let logits = |block: usize, start: usize, out: &mut Vec<f32>| {
        head.logits(&activations[start / BLOCK_ROWS], panels(block), out)
    };
    let dot = |row: usize, target: usize| head.dot(&activations[row / BLOCK_ROWS], row % BLOCK_ROWS, target);
    let (logps, _) = reduce(targets, head.count().div_ceil(per_block), logits, dot);
    tensor(logps, [targets.len()])
}

/// Log-probabilities and log-sum-exps of all rows. `logits` computes those of a block of the vocabulary for up to
/// [`BLOCK_ROWS`] rows and returns the block's size; `logit` is that of one row and token.
fn reduce(
    targets: &[i32],
    blocks: usize,
    logits: impl Fn(usize, usize, &mut Vec<f32>) -> usize + Sync,
    logit: impl Fn(usize, usize) -> f32 + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let rows = targets.len();
    let parts: Vec<Vec<[f32; 2]>> = (0..blocks)
        .into_par_iter()
        .map_init(Vec::new, |scratch, block| {
            let mut sums = Vec::with_capacity(rows);
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let size = logits(block, start, scratch);
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
        let highest = parts.iter().map(|sums| sums[row][0]).fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = parts.iter().map(|sums| f64::from(sums[row][1] * (sums[row][0] - highest).exp())).sum();
        let logit = logit(row, targets[row] as usize);
        let lse = f64::from(highest) + total.ln();
        ((f64::from(logit) - lse) as f32, lse as f32)
    };
    (0..rows).into_par_iter().map(finish).unzip()
}

/// Hidden rows against the head, in blocks of the vocabulary.
struct Blocks<'a> {
    hidden: &'a [f32],
    head: &'a [f32],
    d: usize,
    vocabulary: usize,
}

impl<'a> Blocks<'a> {
    fn new(hidden: &'a FlexTensor, head: &'a FlexTensor) -> Self {
        let [vocabulary, d] = head.shape().dims();
        Self { hidden: values(hidden), head: values(head), d, vocabulary }
    }

    fn count(&self) -> usize {
        self.vocabulary.div_ceil(BLOCK_VOCABULARY)
    }

    fn hidden(&self, row: usize) -> &[f32] {
        &self.hidden[row * self.d..(row + 1) * self.d]
    }

    fn entry(&self, token: usize) -> &[f32] {
        &self.head[token * self.d..(token + 1) * self.d]
    }

    fn matrix(&self, x: &[f32], row: usize) -> Matrix {
        Matrix { data: x[row * self.d..].as_ptr(), rows: self.d, columns: 1 }
    }

    /// Logits of up to [`BLOCK_ROWS`] rows from `start` on, `[rows, size]`; returns `size`.
    fn logits(&self, block: usize, start: usize, out: &mut Vec<f32>) -> usize {
        let first = block * BLOCK_VOCABULARY;
        let size = BLOCK_VOCABULARY.min(self.vocabulary - first);
        let count = BLOCK_ROWS.min(self.hidden.len() / self.d - start);
        out.clear();
        out.resize(count * size, 0.0);
        let entries = self.matrix(self.head, first);
        let entries = Matrix { rows: entries.columns, columns: entries.rows, ..entries };
        let hidden = self.matrix(self.hidden, start);
        // SAFETY: `out` holds `count * size` values and is ours alone; the slices hold the rows asked for.
        unsafe { product([count, size, self.d], out.as_mut_ptr(), size, hidden, entries, false, 1.0) };
        size
    }
}

impl<B: TokenLogps, C: CheckpointStrategy> TokenLogps for Autodiff<B, C> {
    fn token_logps(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[i32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Node;
        impl<B: TokenLogps> Backward<B, 2> for Node {
            type State = ([FloatTensor<B>; 3], Arc<[i32]>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([hidden, head, lse], targets) = ops.state;
                let head_trains = ops.parents[1].is_some();
                let (grad_hidden, grad_head) = B::token_logps_backward(hidden, head, lse, grad, targets, head_trains);
                for (parent, grad) in ops.parents.into_iter().zip([Some(grad_hidden), grad_head]) {
                    if let (Some(parent), Some(grad)) = (parent, grad) {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }
        let nodes = [hidden.node(), head.node()];
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        let (logps, lse) = B::token_logps(hidden.clone(), head.clone(), targets.clone());
        let untracked = <Self as AutodiffBackend>::from_inner(lse.clone());
        let logps = match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([hidden, head, lse], targets), logps),
            OpsKind::UnTracked(prep) => prep.finish(logps),
        };
        (logps, untracked)
    }
}
