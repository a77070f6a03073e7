//! Keys and values in host memory, for `cpu`: a vector for every sequence.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use super::{Place, Slot, host};
use crate::kernels::attention::Spans;
use crate::kernels::attention::cached::{Block, Past, cached_attention};

/// Keys and values of one layer.
#[derive(Debug, Default)]
pub struct HostLayer {
    /// By slot.
    slots: Vec<KeysValues>,
    /// The sequences of the rows of this pass.
    places: Arc<[Place]>,
}

/// `[positions, kv_heads * d]` each.
#[derive(Debug, Default, Clone)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl HostLayer {
    pub(super) fn empty(&mut self, slot: Slot) {
        self.slots.resize(self.slots.len().max(slot + 1), KeysValues::default());
        self.slots[slot] = KeysValues::default();
    }

    pub(super) fn begin(&mut self, places: Arc<[Place]>) {
        self.places = places;
    }

    pub(super) fn attend(&mut self, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: &Spans) -> Tensor<2> {
        let (device, shape, kv_width) = (q.device(), q.dims(), spans.kv_heads * spans.head_dim);
        let [q, k, v] = [q, k, v].map(host);
        let rows = k.chunks_exact(kv_width).zip(v.chunks_exact(kv_width));
        let mut ends = Vec::with_capacity(self.places.len());
        for (place, (key, value)) in self.places.iter().zip(rows) {
            let sequence = &mut self.slots[place.slot];
            sequence.keys.extend_from_slice(key);
            sequence.values.extend_from_slice(value);
            ends.push(sequence.keys.len());
        }
        let block = |slot: Slot, end: usize| -> Block {
            let sequence = &self.slots[slot];
            [&sequence.keys[..end], &sequence.values[..end]]
        };
        let past = |(place, end): (&Place, &usize)| -> Past {
            let prompt = place.prompt.map_or([&[][..]; 2], |slot| block(slot, self.slots[slot].keys.len()));
            [prompt, block(place.slot, *end)]
        };
        let pasts: Vec<Past> = self.places.iter().zip(&ends).map(past).collect();
        Tensor::from_data(TensorData::new(cached_attention(&q, &pasts, spans), shape), &device)
    }
}
