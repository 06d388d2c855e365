//! The keys and values of one context, all layers, allocated once.

use std::ops::Range;

use bytemuck::Pod;
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

    /// The keys and values of some tokens of a layer.
    pub fn views(&self, layer: usize, rows: Range<usize>) -> Result<(TensorView<'_, T>, TensorView<'_, T>)> {
        let layout =
            Layout { seqlen: rows.len(), ..Layout::bhsd(1, self.num_heads_k, self.capacity, self.head_dim) };
        let LayerCache { k, v } = &self.layers[layer];
        let first = rows.start * self.head_dim;
        Ok((TensorView::new(&k[first..], layout)?, TensorView::new(&v[first..], layout)?))
    }

    /// The keys of some tokens of a layer, `[tokens, heads_k, head_dim]`.
    pub fn read_k(&self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let Self { head_dim, capacity, num_heads_k, .. } = *self;
        let mut keys = allocate("keys", rows.len() * num_heads_k * head_dim)?;
        for (i, key) in keys.chunks_exact_mut(head_dim).enumerate() {
            let (row, head) = (rows.start + i / num_heads_k, i % num_heads_k);
            let cached = &self.layers[layer].k[(head * capacity + row) * head_dim..][..head_dim];
            key.iter_mut().zip(cached).for_each(|(key, x)| *key = x.to_f32());
        }
        Ok(keys)
    }

    /// Bytes of one token, all layers.
    pub fn bytes_per_token(&self) -> usize {
        self.layers.len() * 2 * self.num_heads_k * self.head_dim * size_of::<T>()
    }

    /// Moves the tokens of `rows`, ascending, to the front.
    pub fn keep(&mut self, rows: &[usize]) {
        let Self { head_dim, capacity, .. } = *self;
        // Tokens that stay where they are need no move; the others go down, the lowest first, over what is gone.
        let first = rows.iter().zip(0..).position(|(&row, to)| row != to).unwrap_or(rows.len());
        self.lists_mut().flat_map(|list| list.chunks_exact_mut(capacity * head_dim)).for_each(|head| {
            for (to, &row) in rows.iter().enumerate().skip(first) {
                head.copy_within(row * head_dim..(row + 1) * head_dim, to * head_dim);
            }
        });
    }

    /// Copies tokens to `to`.
    pub fn duplicate(&mut self, rows: Range<usize>, to: usize) {
        let Self { head_dim, capacity, .. } = *self;
        self.lists_mut().flat_map(|list| list.chunks_exact_mut(capacity * head_dim)).for_each(|head| {
            head.copy_within(rows.start * head_dim..rows.end * head_dim, to * head_dim);
        });
    }

    /// All keys and all values, layer by layer.
    fn lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<T>> {
        self.layers.iter_mut().flat_map(|LayerCache { k, v }| [k, v])
    }
}

impl<T: Element + Pod> KvCache<T> {
    /// Appends the keys of some tokens of a layer, then their values, `[heads_k, tokens, head_dim]`.
    pub fn read(&self, layer: usize, rows: Range<usize>, bytes: &mut Vec<u8>) {
        let Self { head_dim, capacity, .. } = *self;
        let LayerCache { k, v } = &self.layers[layer];
        for head in [k, v].into_iter().flat_map(|list| list.chunks_exact(capacity * head_dim)) {
            bytes.extend_from_slice(bytemuck::cast_slice(&head[rows.start * head_dim..rows.end * head_dim]));
        }
    }

    /// Writes what [`KvCache::read`] gave for so many tokens, from token `to` on.
    pub fn write(&mut self, layer: usize, to: usize, tokens: usize, bytes: &[u8]) {
        let Self { head_dim, capacity, .. } = *self;
        let LayerCache { k, v } = &mut self.layers[layer];
        let heads = [k, v].into_iter().flat_map(|list| list.chunks_exact_mut(capacity * head_dim));
        for (head, bytes) in heads.zip(bytes.chunks_exact((tokens * head_dim * size_of::<T>()).max(1))) {
            let rows = &mut head[to * head_dim..(to + tokens) * head_dim];
            bytemuck::cast_slice_mut(rows).copy_from_slice(bytes);
        }
    }
}
