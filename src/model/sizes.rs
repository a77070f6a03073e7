//! The properties of a model that other modules need before its parameters are read.

use crate::kernels::layout::Layout;

/// The sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Size of a hidden state.
    pub width: usize,
    /// Layers between the embeddings and the final norm.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; fewer than query heads with grouped-query attention.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Hidden size of the feed-forward network.
    pub inner: usize,
    /// Shape of the feed-forward network.
    pub feed_forward: FeedForward,
    /// Length of the longest sequence that the model was trained for. Learned positions end there; rotary positions can be computed
    /// beyond it, but the model has not seen them. A sliding window is no limit.
    pub positions: usize,
}

/// Shapes of feed-forward networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// Up projection, activation, down projection.
    Plain,
    /// Gate and up projection, down projection.
    Gated,
}

/// Names of tensors, and their layout, that modules other than the architecture depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The output head. LoRA adapts it only if `targets` names it.
    pub head: &'static str,
    /// The component of its name by which the table of embeddings is known.
    pub embeddings: &'static str,
    /// Components of the names of tensors after the last layer: the final norm and the head.
    pub after_layers: &'static [&'static str],
    /// The layout of the weights of linear layers.
    pub layout: Layout,
}

impl Sizes {
    /// The number of weights in the products of all layers.
    pub fn layer_weights(&self) -> f64 {
        let [width, layers, inner, head_dim] = [self.width, self.layers, self.inner, self.head_dim].map(|n| n as f64);
        let attention = 2.0 * width * head_dim * (self.heads + self.kv_heads) as f64;
        let feed_forward = match self.feed_forward {
            FeedForward::Plain => 2.0,
            FeedForward::Gated => 3.0,
        };
        layers * (attention + feed_forward * width * inner)
    }

    /// About how many activations a layer keeps of every token for its way back: the inputs of products, norms and activation
    /// functions.
    pub fn activations(&self) -> u64 {
        (8 * self.width + 3 * self.inner) as u64
    }
}
