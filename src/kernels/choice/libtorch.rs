//! The choice on LibTorch: lists go to the device in one copy, ids come back in one. Sums of weights are f64.
//!
//! `argmax` of LibTorch promises the first of the largest, and orders NaN above all numbers.

use std::ops::Range;

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{Choice, Row, Rule, Sampling};
use crate::kernels::libtorch::{owned, uploaded};

/// Logits that are worked on at a time. A step takes at most 120 bytes a logit, by the sizes of its tensors and of a
/// sort's buffers: 480 MiB, whatever the vocabulary and the number of rows. With a vocabulary of 128 Ki it has 32 rows.
const LOGITS: i64 = 1 << 22;

impl Choice for LibTorch {
    fn choose(logits: TchTensor, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
        let mut logits = owned(logits).contiguous();
        let (count, vocabulary) = logits.size2().expect("logits are a matrix");
        let most = rows.iter().map(|row| row.draws.len()).max().unwrap_or_default();
        if most == 0 {
            return Vec::new();
        }
        let lists = Lists::new(&rows, most, vocabulary as usize, &logits);
        lists.edit(&mut logits, rule.repetition);
        let step = (LOGITS / vocabulary.max(1)).max(1);
        let parts = (0..count).step_by(step as usize).map(|start| {
            let part = |tensor: &Tensor| tensor.narrow(0, start, step.min(count - start));
            drawn(&part(&logits), &part(&lists.draws), rule.sampling)
        });
        let ids = Tensor::cat(&parts.collect::<Vec<_>>(), 0).to_kind(Kind::Int).view_([-1]);
        let ids = Vec::<i32>::try_from(ids).expect("ids are a flat list of i32");
        rows.iter().zip(ids.chunks_exact(most)).flat_map(|(row, ids)| &ids[..row.draws.len()]).copied().collect()
    }
}

/// What the host wants, on the device.
struct Lists {
    /// Random numbers `[rows, draws]` in f64; rows with fewer draws end in zeros.
    draws: Tensor,
    /// Places in the logits, flat, that [`super::Edits::repeated`] names.
    repeated: Tensor,
    /// Those of [`super::Edits::forbidden`].
    forbidden: Tensor,
}

impl Lists {
    /// The lists of `rows` with at most `most` draws, on the device of `logits`. The bits of f64 numbers travel as
    /// integers.
    fn new(rows: &[Row], most: usize, vocabulary: usize, logits: &Tensor) -> Self {
        let places = |ids: fn(&Row) -> &[i32]| {
            let place = move |(index, row)| ids(row).iter().map(move |id| (index * vocabulary + *id as usize) as i64);
            rows.iter().enumerate().flat_map(place)
        };
        let mut all = Vec::with_capacity(rows.len() * most);
        for (index, row) in (1..).zip(rows) {
            all.extend(row.draws.iter().map(|draw| draw.to_bits() as i64));
            all.resize(index * most, 0);
        }
        let first = all.len();
        all.extend(places(|row| &row.edits.repeated));
        let second = all.len();
        all.extend(places(|row| &row.edits.forbidden));
        let end = all.len();
        let all = uploaded(Tensor::from_slice(&all), logits.device());
        let part = |range: Range<usize>| all.narrow(0, range.start as i64, range.len() as i64);
        let draws = part(0..first).view_dtype(Kind::Double).view([rows.len() as i64, most as i64]);
        Self { draws, repeated: part(first..second), forbidden: part(second..end) }
    }

    /// Changes `logits`.
    fn edit(&self, logits: &mut Tensor, repetition: f32) {
        if self.repeated.numel() > 0 {
            // A division by a number of the host is a product with its inverse on CUDA, which rounds otherwise.
            let repetition = constant(repetition.into(), Kind::Float, logits);
            let old = logits.take(&self.repeated);
            let new = (&old * &repetition).where_self(&old.lt(0.0), &(&old / &repetition));
            let _ = logits.put_(&self.repeated, &new, false);
        }
        if self.forbidden.numel() > 0 {
            let _ = logits.view([-1]).index_fill_(0, &self.forbidden, f64::NEG_INFINITY);
        }
    }
}

/// `value` on the device of `place`.
fn constant(value: f64, kind: Kind, place: &Tensor) -> Tensor {
    Tensor::full([1], value, (kind, place.device()))
}

/// The tokens `[rows, draws]` that `draws` take of `logits` `[rows, vocabulary]`.
fn drawn(logits: &Tensor, draws: &Tensor, sampling: Sampling) -> Tensor {
    let best = logits.nan_to_num(f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY).argmax(1, true);
    if sampling.temperature == 0.0 {
        return best.expand(draws.size(), false);
    }
    let highest = logits.gather(1, &best, false).to_kind(Kind::Double);
    let weights = |logits: &Tensor| {
        let temperature = constant(sampling.temperature, Kind::Double, logits);
        logits.to_kind(Kind::Double).g_sub_(&highest).g_div_(&temperature).exp_()
    };
    if sampling.takes_all() {
        let weights = weights(logits);
        let is_number = total(&weights).isfinite();
        return found(weights, &is_number, draws, &best, |place| place);
    }
    let (logits, ids) = logits.sort_stable(true, 1, true);
    let mut weights = weights(&logits);
    let is_number = total(&weights).isfinite();
    drop(logits);
    restrict(&mut weights, sampling);
    found(weights, &is_number, draws, &best, |place| ids.gather(1, &place, false))
}

/// The sums `[rows, 1]` of `weights`.
fn total(weights: &Tensor) -> Tensor {
    weights.sum_dim_intlist(1, true, Kind::Double)
}

/// The tokens, by their `id`s, at the places where the cumulated weights pass a draw's share of all; `best` where none
/// does, or where weights are no numbers.
fn found(
    mut weights: Tensor,
    is_number: &Tensor,
    draws: &Tensor,
    best: &Tensor,
    id: impl FnOnce(Tensor) -> Tensor,
) -> Tensor {
    let last = weights.size()[1] - 1;
    let sums = weights.cumsum_(1, Kind::Double);
    let wanted = (draws * sums.narrow(1, last, 1)).masked_fill_(&is_number.logical_not(), f64::INFINITY);
    let place = wanted.searchsorted(&sums, false, true, "right", None::<Tensor>);
    let id = id(place.clamp_max(last));
    best.where_self(&place.gt(last), &id)
}

/// Sets the `weights` of the tokens that `sampling` leaves out to zero: `[rows, vocabulary]`, the largest first, which
/// is 1.
fn restrict(weights: &mut Tensor, sampling: Sampling) {
    let vocabulary = weights.size()[1];
    if let Some(last) = i64::try_from(sampling.top_k).ok().filter(|count| (1..vocabulary).contains(count)) {
        let less = weights.lt_tensor(&weights.narrow(1, last - 1, 1));
        let _ = weights.masked_fill_(&less, 0.0);
    }
    if sampling.top_p < 1.0 {
        let enough = total(weights) * sampling.top_p;
        let is_enough = weights.cumsum(1, Kind::Double).narrow(1, 0, vocabulary - 1).ge_tensor(&enough);
        let _ = weights.narrow(1, 1, vocabulary - 1).masked_fill_(&is_enough, 0.0);
    }
    if sampling.min_p > 0.0 {
        let less = weights.lt(sampling.min_p);
        let _ = weights.masked_fill_(&less, 0.0);
    }
    if sampling.typical_p < 1.0 {
        let shares = &*weights / total(weights);
        let entropy = shares.special_entr().sum_dim_intlist(1, true, Kind::Double);
        let distance = shares.log().neg_().g_sub_(&entropy).abs_();
        let (nearest, order) = distance.sort_stable(true, 1, false);
        let is_below = shares.gather(1, &order, false).cumsum_(1, Kind::Double).lt(sampling.typical_p);
        let below = is_below.sum_dim_intlist(1, true, Kind::Int64).clamp_max(vocabulary - 1);
        let _ = weights.masked_fill_(&distance.gt_tensor(&nearest.gather(1, &below, false)), 0.0);
    }
}
