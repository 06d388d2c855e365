//! The keys and values of one context in device memory, all layers, allocated once.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut};
use lacuna::{Element, Layout};

use crate::Result;
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

impl<T: Element + Pod> KvCache<T> {
    pub fn new(context: &Context, config: &Config, capacity: usize) -> Result<Self> {
        let len = config.kv_size().checked_mul(capacity).ok_or_else(|| too_large(capacity))?;
        let list = || DeviceBuffer::uninit(context, len, "the KV cache");
        let layers = (0..config.num_hidden_layers).map(|_| Ok(LayerCache { k: list()?, v: list()? }));
        let layout = Layout::bhsd(1, config.num_key_value_heads, capacity, config.head_dim);
        Ok(Self { layers: layers.collect::<Result<_>>()?, layout })
    }

    /// The first `len` tokens of a layer's keys and values.
    pub fn views(&self, layer: usize, len: usize) -> lacuna::Result<(DeviceView<'_, T>, DeviceView<'_, T>)> {
        let layout = Layout { seqlen: len, ..self.layout };
        let LayerCache { k, v } = &self.layers[layer];
        Ok((DeviceView::new(k, 0, layout)?, DeviceView::new(v, 0, layout)?))
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
}
