//! The key-value cache, with which a new token costs one row. Nothing is padded: a sequence has as many positions as tokens, and
//! the answers to one prompt share its positions.
//!
//! The cache is in host memory; on devices other than `cpu` the new rows of every layer are copied to the host and back.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use crate::kernels::attention::cached::{Block, Past, cached_attention};
use crate::kernels::attention::{Spans, attention};

/// A sequence in the cache.
pub type Slot = usize;

/// The sequence of a new row.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The sequence that the row is appended to.
    pub slot: Slot,
    /// The sequence before it that the row attends to: the prompt of an answer.
    pub prompt: Option<Slot>,
}

/// Keys and values of all sequences.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    open: Vec<bool>,
}

/// Keys and values of one layer.
#[derive(Debug, Default)]
pub struct LayerCache {
    /// By slot.
    slots: Vec<KeysValues>,
    /// The sequences of the rows of this pass.
    places: Arc<[Place]>,
}

/// `[positions, kv_heads * d]` each.
#[derive(Debug, Default)]
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache for a model with `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache::default()).collect(), open: Vec::new() }
    }

    /// A new, empty sequence.
    pub fn open(&mut self) -> Slot {
        let slot = self.open.iter().position(|open| !open).unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(true);
            self.layers.iter_mut().for_each(|layer| layer.slots.push(KeysValues::default()));
        }
        self.open[slot] = true;
        slot
    }

    /// Removes a sequence.
    pub fn close(&mut self, slot: Slot) {
        self.open[slot] = false;
        self.layers.iter_mut().for_each(|layer| layer.slots[slot] = KeysValues::default());
    }

    /// Sets the sequences of the rows of the next pass. Rows of one sequence are in the order of their positions.
    pub fn begin(&mut self, places: Vec<Place>) {
        let places: Arc<[Place]> = places.into();
        self.layers.iter_mut().for_each(|layer| layer.places = places.clone());
    }

    /// The cache of layer `index`.
    pub fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }
}

/// Attention of every row, to the rows of the stream, or with a cache to those of its sequence.
pub fn attend(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: Spans, cache: Option<&mut LayerCache>) -> Tensor<2> {
    match cache {
        Some(cache) => cache.attend(q, k, v, &spans),
        None => attention(q, k, v, spans),
    }
}

impl LayerCache {
    fn attend(&mut self, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: &Spans) -> Tensor<2> {
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

/// The values of `tensor` in host memory.
pub(in crate::model) fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("just converted to f32")
}
