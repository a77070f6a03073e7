//! What an architecture tells everybody else about one of its models, before any parameter is read.

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
    /// Key and value heads; as many as query heads unless several of those share one.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Hidden size of the feed-forward network.
    pub inner: usize,
    /// Shape of the feed-forward network.
    pub feed_forward: FeedForward,
}

/// Shapes of feed-forward networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// One product up, an activation, one product down.
    Plain,
    /// Two products up, of which one gates the other, and one down.
    Gated,
}

/// The names of a model's tensors, as far as others than the architecture itself read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The linear layer that gives the logits. LoRA adapts it only where its `targets` name it.
    pub head: &'static str,
    /// Parts of names that belong to tensors behind the last layer: the final norm and the head.
    pub after_layers: &'static [&'static str],
    /// How linear layers store their weights.
    pub layout: Layout,
}

impl Sizes {
    /// Numbers in the weights of all layers' products.
    pub fn layer_weights(&self) -> f64 {
        let [width, layers, inner, head_dim] = [self.width, self.layers, self.inner, self.head_dim].map(|n| n as f64);
        let attention = 2.0 * width * head_dim * (self.heads + self.kv_heads) as f64;
        let feed_forward = match self.feed_forward {
            FeedForward::Plain => 2.0,
            FeedForward::Gated => 3.0,
        };
        layers * (attention + feed_forward * width * inner)
    }

    /// About how many numbers a backward pass keeps for every token: the inputs of a layer's products, norms and
    /// activations.
    pub fn activations(&self) -> u64 {
        (self.layers * (8 * self.width + 3 * self.inner)) as u64
    }
}
