//! Attention of new rows to keys and values that a device keeps: a row of a tensor for every token of every sequence, in any order, and
//! a list of the rows that each new row attends to. The lists are made and copied once a pass, for all layers.

use std::ops::Range;
#[cfg(feature = "tch")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Slice, Tensor, TensorData};

use super::Spans;
use super::gathered::Gathered;
use crate::kernels::indices::upload;
use crate::kernels::once::Once;

/// Rows that the portable body computes at a time: it pads their lists to the longest.
const ROWS: usize = 64;

/// The rows of a cache that new rows attend to.
#[derive(Debug, Default)]
pub struct Recalled {
    pub(super) gathered: Gathered,
    /// The gathered lists on a device.
    #[cfg(feature = "tch")]
    pub(super) on_device: Once,
    /// The sequences after those of a single query that come first.
    #[cfg(feature = "tch")]
    rest: OnceLock<Arc<Recalled>>,
    /// The lists of the portable body on a device, by the window of a layer.
    padded: Mutex<Vec<(Option<usize>, Arc<Once>)>>,
}

impl Recalled {
    /// Adds `queries` consecutive new rows of one sequence, whose last one attends to all of `rows`, and each one before it to one row
    /// less.
    pub fn push(&mut self, queries: usize, rows: impl Iterator<Item = i32>) {
        self.gathered.push(queries, rows);
    }

    /// The sequences after the first `alone` ones, of a single query each.
    #[cfg(feature = "tch")]
    pub(super) fn rest(&self, alone: usize) -> Arc<Self> {
        let rest = || Arc::new(Self { gathered: self.gathered.after(alone), ..Self::default() });
        self.rest.get_or_init(rest).clone()
    }

    /// The lists of the portable body for layers with `window`.
    fn padded(&self, window: Option<usize>) -> Arc<Once> {
        let mut padded = self.padded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lists)) = padded.iter().find(|(known, _)| *known == window) {
            return lists.clone();
        }
        let lists = Arc::<Once>::default();
        padded.push((window, lists.clone()));
        lists
    }
}

/// The attention output `[rows, heads * d]` of the queries `q` of that shape, to `keys` and `values` `[cached, kv_heads * d]`. Without a
/// gradient. The segments of `spans` are not used.
pub fn recall(q: Tensor<2>, keys: Tensor<2>, values: Tensor<2>, recalled: Arc<Recalled>, spans: Spans) -> Tensor<2> {
    let [keys, values] = [keys, values].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Recall>::recall(q.into_dispatch(), keys, values, recalled, spans))
}

/// The kernel; see [`recall`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait Recall: Backend {
    /// The attention output, in the type of q.
    fn recall(
        q: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        recalled: Arc<Recalled>,
        spans: Spans,
    ) -> FloatTensor<Self> {
        portable::<Self>(q, keys, values, &recalled, &spans)
    }
}

impl Recall for burn::backend::Flex {}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Recall for burn::backend::Cube {}

/// The lists of some new rows, padded to the longest.
#[derive(Debug, Clone)]
struct Padded<I, F> {
    rows: Range<usize>,
    longest: usize,
    /// `[rows * longest]`.
    keys: I,
    /// 0, or a very negative number for padding, `[rows, 1, 1, longest]`.
    mask: F,
}

pub(super) fn portable<B: Backend>(
    q: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    recalled: &Recalled,
    spans: &Spans,
) -> FloatTensor<B> {
    let (device, dtype, width) = (q.device(), q.dtype(), q.shape()[1]);
    let fits = |kept: &Vec<Padded<IntTensor<B>, FloatTensor<B>>>| kept.iter().all(|part| part.mask.device() == device);
    let parts = recalled.padded(spans.window).get(fits, || padded::<B>(&recalled.gathered, spans, &device));
    let (kv_heads, group) = (spans.kv_heads, spans.group());
    let d = width / spans.heads;
    let outs = parts.into_iter().map(|Padded { rows, longest, keys: indices, mask }| {
        let count = rows.len();
        let q = B::float_slice(q.clone(), &[Slice::from(rows), Slice::from(0..width)]);
        let q = B::float_reshape(B::float_cast(q, FloatDType::F32), [count * kv_heads, group, d].into());
        let heads = |x: &FloatTensor<B>| {
            let x = B::float_cast(B::float_select(x.clone(), 0, indices.clone()), FloatDType::F32);
            let x = B::float_reshape(x, [count, longest, kv_heads, d].into());
            B::float_reshape(B::float_permute(x, &[0, 2, 1, 3]), [count * kv_heads, longest, d].into())
        };
        let scores = B::float_matmul(q, B::float_transpose(heads(&keys)));
        let scores = B::float_reshape(scores, [count, kv_heads, group, longest].into());
        let scores = B::float_add(B::float_mul_scalar(scores, spans.scale.into()), mask);
        let weights = B::float_exp(B::float_sub(scores.clone(), B::float_max_dim(scores, 3)));
        let weights = B::float_div(weights.clone(), B::float_sum_dim(weights, 3));
        let weights = B::float_reshape(weights, [count * kv_heads, group, longest].into());
        B::float_reshape(B::float_matmul(weights, heads(&values)), [count, width].into())
    });
    B::float_cast(B::float_cat(outs.collect(), 0), dtype.into())
}

fn padded<B: Backend>(
    gathered: &Gathered,
    spans: &Spans,
    device: &Device<B>,
) -> Vec<Padded<IntTensor<B>, FloatTensor<B>>> {
    let ends = |ends: &[i32], index: usize| ends[index] as usize..ends[index + 1] as usize;
    let lists: Vec<&[i32]> = (0..gathered.query_ends.len() - 1)
        .flat_map(|sequence| {
            let queries = ends(&gathered.query_ends, sequence).len();
            let keys = &gathered.keys[ends(&gathered.key_ends, sequence)];
            (0..queries).map(move |query| &keys[spans.visible(keys.len() - queries + query)])
        })
        .collect();
    let part = |(index, lists): (usize, &[&[i32]])| {
        let (start, longest) = (index * ROWS, lists.iter().map(|list| list.len()).max().unwrap_or_default());
        let pad = |list: &&[i32]| list.iter().copied().chain(std::iter::repeat(0)).take(longest).collect::<Vec<_>>();
        let keys: Vec<i32> = lists.iter().flat_map(pad).collect();
        let hidden = |list: &&[i32]| {
            let shown = list.len();
            (0..longest).map(move |at| if at < shown { 0.0 } else { -1e30 })
        };
        let mask: Vec<f32> = lists.iter().flat_map(hidden).collect();
        let mask = TensorData::new(mask, [lists.len(), 1, 1, longest]);
        Padded {
            rows: start..start + lists.len(),
            longest,
            keys: upload::<B>(&keys, device),
            mask: B::float_from_data(mask, device),
        }
    };
    lists.chunks(ROWS).enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cached::{Block, cached_attention};
    use super::*;
    use crate::close::{Tolerance, assert_close};
    use burn::tensor::Distribution;

    /// Two sequences behind one prompt, a prompt that is being read, and one alone; their rows are mixed in the tensor.
    #[test]
    fn rows_in_any_order_give_the_attention_of_the_host() {
        let device = burn::tensor::Device::flex();
        let random = |rows: usize, width: usize| Tensor::<2>::random([rows, width], Distribution::Default, &device);
        let (heads, kv_heads, d) = (4, 2, 8);
        let [keys, values] = [(); 2].map(|()| random(120, kv_heads * d));
        let prompt: Vec<i32> = (0..20).map(|at| 119 - 3 * at).collect();
        let own: [Vec<i32>; 4] = [vec![1, 4], vec![7], (60..75).map(|at| (at * 7) % 120).collect(), vec![16]];
        let queries = [1, 1, 9, 1];
        let (mut recalled, mut pasts) = (Recalled::default(), Vec::new());
        for (index, own) in own.iter().enumerate() {
            let before = if index < 2 { &prompt[..] } else { &[] };
            recalled.push(queries[index], before.iter().chain(own).copied());
            for query in (0..queries[index]).rev() {
                pasts.push([before.to_vec(), own[..own.len() - query].to_vec()]);
            }
        }
        let recalled = Arc::new(recalled);
        // Layers of one pass may have different windows.
        for window in [None, Some(5)] {
            let spans = Spans { window, ..Spans::new(Arc::new(Vec::new().into()), heads, kv_heads, d) };
            let q = random(pasts.len(), heads * d);
            let host = |tensor: &Tensor<2>| tensor.to_data().try_into_vec::<f32>().unwrap();
            let got = recall(q.clone(), keys.clone(), values.clone(), recalled.clone(), spans.clone());
            let [of_keys, of_values] = [&keys, &values].map(host);
            let width = kv_heads * d;
            let rows = |all: &[f32], list: &[i32]| -> Vec<f32> {
                list.iter().flat_map(|row| all[*row as usize * width..][..width].to_vec()).collect()
            };
            let blocks: Vec<[[Vec<f32>; 2]; 2]> = pasts
                .iter()
                .map(|past| past.each_ref().map(|list| [rows(&of_keys, list), rows(&of_values, list)]))
                .collect();
            let pasts: Vec<[Block; 2]> =
                blocks.iter().map(|past| past.each_ref().map(|block| block.each_ref().map(Vec::as_slice))).collect();
            let want = cached_attention(&host(&q), &pasts, &spans);
            assert_close(&host(&got), &want, Tolerance::Absolute(1e-5), format_args!("{window:?}"));
        }
    }
}
