//! The keys and values of one context, all layers, allocated once.

use lacuna::{Element, Layout, TensorView};

use crate::error::allocate;
use crate::{Error, Result};

/// Keys (rotated) and values of up to `capacity` tokens, per layer `[num_heads_k, capacity, head_dim]`: the tokens of a
/// head lie together, as attention reads them.
pub(crate) struct KvCache<T> {
    layers: Vec<LayerCache<T>>,
    num_heads_k: usize,
    head_dim: usize,
    capacity: usize,
    /// The position of each cached token; its length is the cache's.
    position_ids: Vec<u32>,
}

pub(crate) struct LayerCache<T> {
    pub k: Vec<T>,
    pub v: Vec<T>,
}

impl<T: Element> KvCache<T> {
    pub fn new(num_layers: usize, num_heads_k: usize, head_dim: usize, capacity: usize) -> Result<Self> {
        let too_large =
            || Error::invalid("capacity", "small enough that the KV cache can be addressed", capacity);
        // The kernels count tokens in 32 bits.
        u32::try_from(capacity).map_err(|_| too_large())?;
        let len = (num_heads_k * head_dim).checked_mul(capacity).ok_or_else(too_large)?;
        let layers = (0..num_layers)
            .map(|_| Ok(LayerCache { k: allocate("the KV cache", len)?, v: allocate("the KV cache", len)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, num_heads_k, head_dim, capacity, position_ids: Vec::new() })
    }

    pub fn len(&self) -> usize {
        self.position_ids.len()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The position after the last one.
    pub fn next_position(&self) -> u32 {
        self.position_ids.last().map_or(0, |&p| p.saturating_add(1))
    }

    /// Counts tokens as cached, once every layer holds them.
    pub fn commit(&mut self, position_ids: &[u32]) {
        self.position_ids.extend_from_slice(position_ids);
    }

    pub fn truncate(&mut self, len: usize) {
        self.position_ids.truncate(len);
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
