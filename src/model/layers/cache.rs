//! The key-value cache, with which a new token costs one row. Nothing is padded: a sequence has as many positions as tokens, and
//! the answers to one prompt share its positions. On `cpu` it is in host memory, elsewhere on the device.

mod device;
mod host;

use burn::tensor::{Device, Tensor};

use crate::kernels::attention::{Spans, attention};
use device::{Arena, DeviceLayer};
use host::HostLayer;

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
    /// Where rows are on a device; none for a cache in host memory.
    arena: Option<Arena>,
}

/// Keys and values of one layer.
#[allow(clippy::large_enum_variant, reason = "one for each layer of a model, and all are of one variant")]
#[derive(Debug)]
pub enum LayerCache {
    /// In host memory.
    Host(HostLayer),
    /// On a device.
    Device(DeviceLayer),
}

impl KvCache {
    /// An empty cache for a model with `layers` layers on `device`.
    pub fn new(layers: usize, device: &Device) -> Self {
        if *device == Device::flex() { Self::on_host(layers) } else { Self::on_device(layers) }
    }

    pub(in crate::model) fn on_host(layers: usize) -> Self {
        let layers = (0..layers).map(|_| LayerCache::Host(HostLayer::default())).collect();
        Self { layers, open: Vec::new(), arena: None }
    }

    pub(in crate::model) fn on_device(layers: usize) -> Self {
        let layers = (0..layers).map(|_| LayerCache::Device(DeviceLayer::default())).collect();
        Self { layers, open: Vec::new(), arena: Some(Arena::default()) }
    }

    /// A new, empty sequence.
    pub fn open(&mut self) -> Slot {
        let slot = self.open.iter().position(|open| !open).unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(true);
        }
        self.open[slot] = true;
        self.empty(slot);
        slot
    }

    /// Removes a sequence.
    pub fn close(&mut self, slot: Slot) {
        self.open[slot] = false;
        self.empty(slot);
    }

    fn empty(&mut self, slot: Slot) {
        match &mut self.arena {
            Some(arena) => arena.empty(slot),
            None => self.layers.iter_mut().for_each(|layer| {
                if let LayerCache::Host(layer) = layer {
                    layer.empty(slot);
                }
            }),
        }
    }

    /// Sets the sequences of the rows of the next pass. Rows of one sequence are side by side, in the order of their positions.
    pub fn begin(&mut self, places: Vec<Place>) {
        let Some(arena) = &mut self.arena else {
            let places: std::sync::Arc<[Place]> = places.into();
            self.layers.iter_mut().for_each(|layer| {
                if let LayerCache::Host(layer) = layer {
                    layer.begin(places.clone());
                }
            });
            return;
        };
        let pass = arena.begin(&places);
        self.layers.iter_mut().for_each(|layer| {
            if let LayerCache::Device(layer) = layer {
                layer.begin(&pass);
            }
        });
    }

    /// The cache of layer `index`.
    pub fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }
}

/// Attention of every row, to the rows of the stream, or with a cache to those of its sequence.
pub fn attend(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: Spans, cache: Option<&mut LayerCache>) -> Tensor<2> {
    match cache {
        Some(LayerCache::Host(layer)) => layer.attend(q, k, v, &spans),
        Some(LayerCache::Device(layer)) => layer.attend(q, k, v, spans),
        None => attention(q, k, v, spans),
    }
}

/// The values of `tensor` in host memory.
pub(in crate::model) fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("just converted to f32")
}
