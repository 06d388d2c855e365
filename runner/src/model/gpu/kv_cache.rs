//! The keys and values of one context in device memory, all layers, allocated once.

use std::ops::Range;

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream};
use lacuna::{Element, Layout};

use super::moves::Moves;
use crate::Result;
use crate::error::allocate;
use crate::model::Config;
use crate::model::positions::too_large;

/// Keys (rotated) and values of up to `capacity` tokens, per layer `[num_heads_k, capacity, head_dim]`: the tokens of a
/// head lie together, as attention reads them.
pub(super) struct KvCache<T> {
    layers: Vec<LayerCache<T>>,
    /// Of all `capacity` tokens.
    layout: Layout,
}

struct LayerCache<T> {
    k: DeviceBuffer<T>,
    v: DeviceBuffer<T>,
}

/// What the host's copies of rows are called.
const COPIES: &str = "copies of keys and values";

impl<T: Element + Pod> KvCache<T> {
    pub fn new(context: &Context, config: &Config, capacity: usize) -> Result<Self> {
        let len = config.kv_size().checked_mul(capacity).ok_or_else(|| too_large(capacity))?;
        let list = || DeviceBuffer::uninit(context, len, "the KV cache");
        let layers = (0..config.num_hidden_layers).map(|_| Ok(LayerCache { k: list()?, v: list()? }));
        let layout = Layout::bhsd(1, config.num_key_value_heads, capacity, config.head_dim);
        Ok(Self { layers: layers.collect::<Result<_>>()?, layout })
    }

    /// The keys and values of some tokens of a layer.
    pub fn views(
        &self,
        layer: usize,
        rows: Range<usize>,
    ) -> lacuna::Result<(DeviceView<'_, T>, DeviceView<'_, T>)> {
        let layout = Layout { seqlen: rows.len(), ..self.layout };
        let first = rows.start * self.layout.token_stride;
        let LayerCache { k, v } = &self.layers[layer];
        Ok((DeviceView::new(k, first, layout)?, DeviceView::new(v, first, layout)?))
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.layout.seqlen
    }

    /// All of a layer's keys and values, for writing.
    pub fn views_mut(
        &mut self,
        layer: usize,
    ) -> lacuna::Result<(DeviceViewMut<'_, T>, DeviceViewMut<'_, T>)> {
        let LayerCache { k, v } = &mut self.layers[layer];
        Ok((DeviceViewMut::new(k, 0, self.layout)?, DeviceViewMut::new(v, 0, self.layout)?))
    }

    /// Bytes of one token, all layers.
    pub fn bytes_per_token(&self) -> usize {
        self.layers.len() * 2 * self.layout.heads * self.layout.head_dim * size_of::<T>()
    }

    /// The keys of some tokens of a layer, `[tokens, heads_k, head_dim]`.
    pub fn read_k(&self, stream: &Stream, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let Layout { heads, head_dim, .. } = self.layout;
        let mut keys = allocate(COPIES, rows.len() * heads * head_dim)?;
        let mut of_head: Vec<T> = allocate(COPIES, rows.len() * head_dim)?;
        for head in 0..heads {
            self.layers[layer].k.copy_to_host(stream, self.layout.offset(rows.start, head), &mut of_head)?;
            for (token, row) in of_head.chunks_exact(head_dim).enumerate() {
                let key = &mut keys[(token * heads + head) * head_dim..][..head_dim];
                key.iter_mut().zip(row).for_each(|(key, x)| *key = x.to_f32());
            }
        }
        Ok(keys)
    }

    /// Appends the keys of some tokens of a layer, then their values, `[heads_k, tokens, head_dim]`.
    pub fn read(&self, stream: &Stream, layer: usize, rows: Range<usize>, bytes: &mut Vec<u8>) -> Result<()> {
        let LayerCache { k, v } = &self.layers[layer];
        let mut of_head: Vec<T> = allocate(COPIES, rows.len() * self.layout.head_dim)?;
        for list in [k, v] {
            for head in 0..self.layout.heads {
                list.copy_to_host(stream, self.layout.offset(rows.start, head), &mut of_head)?;
                bytes.extend_from_slice(bytemuck::cast_slice(&of_head));
            }
        }
        Ok(())
    }

    /// Writes what [`KvCache::read`] gave for so many tokens, from token `to` on.
    pub fn write(
        &mut self,
        stream: &Stream,
        layer: usize,
        to: usize,
        tokens: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let Layout { heads, head_dim, .. } = self.layout;
        let LayerCache { k, v } = &mut self.layers[layer];
        let mut of_head: Vec<T> = allocate(COPIES, tokens * head_dim)?;
        let mut of_heads = bytes.chunks_exact((tokens * head_dim * size_of::<T>()).max(1));
        for list in [k, v] {
            for (head, bytes) in (0..heads).zip(of_heads.by_ref()) {
                bytemuck::cast_slice_mut(&mut of_head).copy_from_slice(bytes);
                list.copy_from_host_at(stream, self.layout.offset(to, head), &of_head)?;
            }
        }
        Ok(())
    }

    /// Copies the tokens of `rows` to `to` and behind it, in their order. Each lies at its new place or behind it, or all lie
    /// before `to`.
    pub fn copy(&mut self, context: &Context, stream: &Stream, rows: &[u32], to: usize) -> Result<()> {
        let mut moves = Moves::new(context, self.layout, rows, to)?;
        for LayerCache { k, v } in &mut self.layers {
            moves.run(stream, k)?;
            moves.run(stream, v)?;
        }
        Ok(())
    }
}
