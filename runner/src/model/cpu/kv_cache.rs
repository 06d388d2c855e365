//! The keys and values of one context, all layers, allocated once.

use lacuna::{Element, Layout, TensorView};

use crate::Result;
use crate::error::allocate;
use crate::model::positions::too_large;

/// Keys (rotated) and values of up to `capacity` tokens, per layer `[num_heads_k, capacity, head_dim]`: the tokens of a
/// head lie together, as attention reads them.
pub(crate) struct KvCache<T> {
    layers: Vec<LayerCache<T>>,
    num_heads_k: usize,
    head_dim: usize,
    capacity: usize,
}

pub(crate) struct LayerCache<T> {
    pub k: Vec<T>,
    pub v: Vec<T>,
}

impl<T: Element> KvCache<T> {
    pub fn new(num_layers: usize, num_heads_k: usize, head_dim: usize, capacity: usize) -> Result<Self> {
        let len = (num_heads_k * head_dim).checked_mul(capacity).ok_or_else(|| too_large(capacity))?;
        let layers = (0..num_layers)
            .map(|_| Ok(LayerCache { k: allocate("the KV cache", len)?, v: allocate("the KV cache", len)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, num_heads_k, head_dim, capacity })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerCache<T> {
        &mut self.layers[layer]
    }

    /// The first `len` tokens of a layer's keys and values.
    pub fn views(&self, layer: usize, len: usize) -> Result<(TensorView<'_, T>, TensorView<'_, T>)> {
        let layout =
            Layout { seqlen: len, ..Layout::bhsd(1, self.num_heads_k, self.capacity, self.head_dim) };
        let LayerCache { k, v } = &self.layers[layer];
        Ok((TensorView::new(k, layout)?, TensorView::new(v, layout)?))
    }
}
