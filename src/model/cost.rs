//! What a pass costs, in floating-point operations. Only products count, of which two operations are one term: norms,
//! rotations and activations are a few in a thousand.

use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Param;
use burn::tensor::{Distribution, FloatDType, Tensor};

use super::batch::{PackedBatch, PairIds};
use super::device::DeviceSpec;
use super::layers::weight::{Kept, Weight};
use super::sizes::Sizes;
use crate::error::Result;
use crate::kernels::layout::Layout;
use crate::kernels::packed::Packed;
use crate::kernels::precision::Precision;

/// What a model has to do for some pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Tokens that go through the layers.
    pub tokens: f64,
    /// Tokens whose log-probability is wanted.
    pub needed: f64,
    /// Pairs of a token and one that it sees, itself included.
    pub seen: f64,
}

impl Work {
    /// This many times the work.
    pub fn times(self, factor: f64) -> Self {
        Self { tokens: factor * self.tokens, needed: factor * self.needed, seen: factor * self.seen }
    }
}

impl Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, needed: self.needed + other.needed, seen: self.seen + other.seen }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl PackedBatch {
    /// What a model has to do for the batch.
    pub fn work(&self) -> Work {
        let seen = self.positions.iter().map(|position| f64::from(*position) + 1.0).sum();
        Work { tokens: self.len() as f64, needed: self.targets.len() as f64, seen }
    }
}

impl PairIds<'_> {
    /// What a model has to do for all log-probabilities of its responses.
    pub fn work(&self) -> Work {
        let own = |rows: f64| rows * (rows + 1.0) / 2.0;
        let prompt = self.prompt.len() as f64;
        let mut work = Work { tokens: prompt, needed: 0.0, seen: own(prompt) };
        for response in self.responses {
            // The last token of a response predicts nothing.
            let rows = response.len().saturating_sub(1) as f64;
            work.tokens += rows;
            work.needed += response.len() as f64;
            work.seen += rows * prompt + own(rows);
        }
        work
    }
}

/// Operations of a model's forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    width: usize,
    layers: f64,
    /// In the products of all layers, for every token.
    token: f64,
    /// In the attention of all layers, for every pair of tokens that see each other.
    seen: f64,
    /// In the head, for every token that is needed.
    needed: f64,
}

impl Cost {
    /// The cost of a model with these sizes.
    pub fn of(sizes: &Sizes) -> Self {
        let [width, layers, vocabulary] = [sizes.width, sizes.layers, sizes.vocabulary].map(|n| n as f64);
        Self {
            width: sizes.width,
            layers,
            token: 2.0 * sizes.layer_weights(),
            seen: 4.0 * layers * (sizes.heads * sizes.head_dim) as f64,
            needed: 2.0 * width * vocabulary,
        }
    }

    /// Operations of a forward pass through the first `layers`.
    pub fn trunk(&self, layers: usize, work: Work) -> f64 {
        (self.token * work.tokens + self.seen * work.seen) * layers as f64 / self.layers
    }

    /// Numbers between two layers.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Operations of a forward pass.
    pub fn forward(&self, work: Work) -> f64 {
        self.token * work.tokens + self.seen * work.seen + self.needed * work.needed
    }
}

/// Operations a second in a product of the width of a model's layers, in the numbers and on the device of a stage; frozen
/// weights are packed where that is fast. Takes about half a second.
pub fn calibrate(device: DeviceSpec, frozen: Option<Precision>, width: usize) -> Result<f64> {
    const ROWS: usize = 512;
    let shape = [3 * width, width];
    let operations = 2.0 * (ROWS * shape[0] * shape[1]) as f64;
    let opened = device.open()?;
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &opened);
    let x = random([ROWS, width]);
    let weight = match frozen.map_or(Kept::Plain, |precision| Kept::frozen(device, &opened, precision)) {
        Kept::Plain => Weight::Plain(Param::from_tensor(random(shape))),
        Kept::Bf16 => Weight::Plain(Param::from_tensor(random(shape).cast(FloatDType::BF16))),
        Kept::Packed(precision) => {
            Arc::new(Packed::new(shape, precision, |output, input| ((output + input) % 7) as f32)).into()
        }
    };
    let once = || {
        let start = Instant::now();
        // Devices answer before they are done.
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
        });
        assert_eq!(cost.token, 2.0 * 106_168_320.0);
        assert_eq!(cost.needed, 2.0 * 49_152.0 * 576.0);
        assert_eq!(cost.forward(Work { tokens: 1.0, needed: 0.0, seen: 1.0 }), cost.token + 4.0 * 30.0 * 576.0);
    }

    #[test]
    fn the_work_of_a_pair_is_that_of_its_packed_batch() {
        let (prompt, chosen, rejected) = ([1; 5], [2; 4], [3; 1]);
        let mut batch = PackedBatch::default();
        batch.push(&prompt, &[&chosen[..], &rejected].map(|ids| Response { ids, needed: Needed::All }));
        assert_eq!(batch.work(), Work { tokens: 8.0, needed: 5.0, seen: 15.0 + 6.0 + 7.0 + 8.0 });
        assert_eq!(PairIds { prompt: &prompt, responses: [&chosen, &rejected] }.work(), batch.work());
    }
}
