//! Keys and values of what a model has read, layer by layer, so that a new token costs one row. Nothing is padded: every
//! sequence has as many positions as it has tokens, and the answers to one prompt share its positions.
//!
//! It lies in the memory of the host. On other devices than `cpu` a layer's new rows travel there and back.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use crate::kernels::attention::cached::{Block, Past, cached_attention};
use crate::kernels::attention::{Spans, attention};

/// A sequence in the cache.
pub type Slot = usize;

/// Where a new row belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The sequence that it is added to.
    pub slot: Slot,
    /// The sequence that it sees in front of that: an answer's prompt.
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
    kept: Vec<Kept>,
    /// The rows of this pass.
    places: Arc<[Place]>,
}

/// `[positions, kv_heads * d]` each.
#[derive(Debug, Default)]
struct Kept {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache of a model with so many layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache::default()).collect(), open: Vec::new() }
    }

    /// A new, empty sequence.
    pub fn open(&mut self) -> Slot {
        let slot = self.open.iter().position(|open| !open).unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(true);
            self.layers.iter_mut().for_each(|layer| layer.kept.push(Kept::default()));
        }
        self.open[slot] = true;
        slot
    }

    /// Forgets a sequence.
    pub fn close(&mut self, slot: Slot) {
        self.open[slot] = false;
        self.layers.iter_mut().for_each(|layer| layer.kept[slot] = Kept::default());
    }

    /// Says where the rows of the pass that follows belong. Rows of one sequence come in the order of their positions.
    pub fn begin(&mut self, places: Vec<Place>) {
        let places: Arc<[Place]> = places.into();
        self.layers.iter_mut().for_each(|layer| layer.places = places.clone());
    }

    /// The cache of layer `index`.
    pub fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }
}

/// Attention of every row to what it sees: the rows of its stream, or with a cache those of its sequence.
pub fn attend(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: Spans, kept: Option<&mut LayerCache>) -> Tensor<2> {
    match kept {
        Some(kept) => kept.attend(q, k, v, &spans),
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
            let kept = &mut self.kept[place.slot];
            kept.keys.extend_from_slice(key);
            kept.values.extend_from_slice(value);
            ends.push(kept.keys.len());
        }
        let block = |slot: Slot, end: usize| -> Block {
            let kept = &self.kept[slot];
            [&kept.keys[..end], &kept.values[..end]]
        };
        let past = |(place, end): (&Place, &usize)| -> Past {
            let prompt = place.prompt.map_or([&[][..]; 2], |slot| block(slot, self.kept[slot].keys.len()));
            [prompt, block(place.slot, *end)]
        };
        let pasts: Vec<Past> = self.places.iter().zip(&ends).map(past).collect();
        Tensor::from_data(TensorData::new(cached_attention(&q, &pasts, spans), shape), &device)
    }
}

/// The values of `tensor`.
pub(in crate::model) fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("just converted to f32")
}
