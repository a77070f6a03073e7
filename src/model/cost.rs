//! The floating-point operations of a pass. Only products are counted, two operations a multiply-add: norms, rotary positions and
//! activation functions are a few per mille.

use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Param;
use burn::tensor::{Distribution, FloatDType, Tensor};

use super::batch::{PackedBatch, PairIds};
use super::device::DeviceSpec;
use super::layers::weight::{Weight, WeightFormat};
use super::sizes::Sizes;
use crate::error::Result;
use crate::kernels::layout::Layout;
use crate::kernels::packed::Packed;
use crate::kernels::precision::Precision;

/// What a pass over some pairs computes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Workload {
    /// Tokens that go through the layers.
    pub tokens: f64,
    /// Tokens whose log-probability is needed.
    pub needed: f64,
    /// Pairs of a token and a token that it attends to, itself included.
    pub attended: f64,
}

impl Workload {
    /// The workload `factor` times.
    pub fn times(self, factor: f64) -> Self {
        Self { tokens: factor * self.tokens, needed: factor * self.needed, attended: factor * self.attended }
    }
}

impl Add for Workload {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            needed: self.needed + other.needed,
            attended: self.attended + other.attended,
        }
    }
}

impl Sum for Workload {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl PackedBatch {
    /// The workload of a forward pass over the batch.
    pub fn workload(&self) -> Workload {
        let attended = self.positions.iter().map(|position| f64::from(*position) + 1.0).sum();
        Workload { tokens: self.len() as f64, needed: self.targets.len() as f64, attended }
    }
}

impl PairIds<'_> {
    /// The workload of a forward pass for the log-probabilities of both responses.
    pub fn workload(&self) -> Workload {
        let own = |rows: f64| rows * (rows + 1.0) / 2.0;
        let prompt = self.prompt.len() as f64;
        let mut workload = Workload { tokens: prompt, needed: 0.0, attended: own(prompt) };
        for response in self.responses {
            // No needed token follows the last token of a response.
            let rows = response.len().saturating_sub(1) as f64;
            workload.tokens += rows;
            workload.needed += response.len() as f64;
            workload.attended += rows * prompt + own(rows);
        }
        workload
    }
}

/// The operations of the forward pass of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    width: usize,
    layers: f64,
    /// In the products of all layers, per token.
    token: f64,
    /// In the attention of all layers, per pair of tokens.
    pair: f64,
    /// In the head, per needed token.
    head: f64,
}

impl Cost {
    /// The cost of a model with these sizes.
    pub fn of(sizes: &Sizes) -> Self {
        let [width, layers, vocabulary] = [sizes.width, sizes.layers, sizes.vocabulary].map(|n| n as f64);
        Self {
            width: sizes.width,
            layers,
            token: 2.0 * sizes.layer_weights(),
            pair: 4.0 * layers * (sizes.heads * sizes.head_dim) as f64,
            head: 2.0 * width * vocabulary,
        }
    }

    /// Operations of a forward pass through the first `layers`.
    pub fn trunk(&self, layers: usize, workload: Workload) -> f64 {
        (self.token * workload.tokens + self.pair * workload.attended) * layers as f64 / self.layers
    }

    /// Size of a hidden state.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Operations of a forward pass.
    pub fn forward(&self, workload: Workload) -> f64 {
        self.token * workload.tokens + self.pair * workload.attended + self.head * workload.needed
    }
}

/// Operations per second of a product with weights `[3 * width, width]` on `device`, in f32 or with `frozen` weights in the given
/// precision. Takes about half a second.
///
/// # Errors
/// A device that cannot be opened.
pub fn calibrate(device: DeviceSpec, frozen: Option<Precision>, width: usize) -> Result<f64> {
    const ROWS: usize = 512;
    let shape = [3 * width, width];
    let operations = 2.0 * (ROWS * shape[0] * shape[1]) as f64;
    let opened = device.open()?;
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &opened);
    let x = random([ROWS, width]);
    let weight = match frozen.map_or(WeightFormat::Plain, |precision| WeightFormat::frozen(device, &opened, precision))
    {
        WeightFormat::Plain | WeightFormat::Tf32 => Weight::Plain(Param::from_tensor(random(shape))),
        WeightFormat::Bf16 => Weight::Plain(Param::from_tensor(random(shape).cast(FloatDType::BF16))),
        WeightFormat::Packed(precision) => {
            Arc::new(Packed::new(shape, precision, |output, input| ((output + input) % 7) as f32)).into()
        }
    };
    let once = || {
        let start = Instant::now();
        // Devices compute asynchronously.
        weight.times(x.clone(), Layout::OutIn).slice([0..1, 0..1]).into_data();
        start.elapsed()
    };
    once();
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(300) {
        best = best.min(once());
    }
    Ok(operations / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sizes::FeedForward;
    use crate::model::{Needed, Response};

    /// SmolLM2-135M has 106.2 M parameters in its layers' products, and 49152 x 576 in its head.
    #[test]
    fn a_token_costs_two_operations_a_parameter() {
        let cost = Cost::of(&Sizes {
            vocabulary: 49152,
            width: 576,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            inner: 1536,
            feed_forward: FeedForward::Gated,
            positions: 2048,
        });
        assert_eq!(cost.token, 2.0 * 106_168_320.0);
        assert_eq!(cost.head, 2.0 * 49_152.0 * 576.0);
        assert_eq!(cost.forward(Workload { tokens: 1.0, needed: 0.0, attended: 1.0 }), cost.token + 4.0 * 30.0 * 576.0);
    }

    #[test]
    fn the_workload_of_a_pair_is_that_of_its_packed_batch() {
        let (prompt, chosen, rejected) = ([1; 5], [2; 4], [3; 1]);
        let mut batch = PackedBatch::default();
        batch.push(&prompt, &[&chosen[..], &rejected].map(|ids| Response { ids, needed: Needed::All }));
        assert_eq!(batch.workload(), Workload { tokens: 8.0, needed: 5.0, attended: 15.0 + 6.0 + 7.0 + 8.0 });
        assert_eq!(PairIds { prompt: &prompt, responses: [&chosen, &rejected] }.workload(), batch.workload());
    }
}
