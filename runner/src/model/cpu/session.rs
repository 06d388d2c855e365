//! One context of a Llama model on the CPU: passes, decode, and what is done to the cache between them.

use std::ops::Range;

use bytemuck::Pod;
use lacuna::{AttentionOptions, DecodeShape, Device, Element, TensorView, TensorViewMut, decode_attention};

use super::forward::{Buffers, Pass};
use super::kv_cache::KvCache;
use super::llama::Llama;
use crate::Result;
use crate::error::allocate;
use crate::model::kv_session::check_layer;
use crate::model::positions::Positions;
use crate::model::{
    ForwardOptions, ForwardReport, KvRows, KvSession, Observer, PassOptions, PassOutput, Session,
};

pub(crate) struct LlamaSession<'m, T: Element> {
    pub(super) model: &'m Llama<T>,
    pub(super) positions: Positions,
    pub(super) cache: KvCache<T>,
    pub(super) decode_plan: decode_attention::Plan<T>,
    decode_buffers: Buffers<T>,
    decode_logits: Vec<f32>,
}

impl<'m, T: Element + Pod> LlamaSession<'m, T> {
    pub fn new(model: &'m Llama<T>, capacity: usize) -> Result<Self> {
        let config = &model.config;
        let positions = Positions::new(capacity)?;
        let (num_heads_k, head_dim) = (config.num_key_value_heads, config.head_dim);
        let shape = DecodeShape {
            batch: 1,
            max_seqlen_q: 1,
            num_heads: config.num_attention_heads,
            num_heads_k,
            head_dim,
            max_seqlen_k: capacity,
        };
        Ok(Self {
            model,
            positions,
            cache: KvCache::new(config.num_hidden_layers, num_heads_k, head_dim, capacity)?,
            decode_plan: decode_attention::Plan::new(Device::Cpu, &shape, &AttentionOptions::default())?,
            decode_buffers: Buffers::new(config, 1)?,
            decode_logits: allocate("logits", config.vocab_size)?,
        })
    }
}

impl<T: Element + Pod> Session for LlamaSession<'_, T> {
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        let options = PassOptions { forward: options.clone(), ..Default::default() };
        let PassOutput { logits, report, .. } = self.pass(tokens, options, observer)?;
        Ok((logits, report))
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        let config = &self.model.config;
        let position_ids = self.positions.of_next(config, &[token], None)?;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let past = self.positions.len();
        let mut pass = Pass::new(self.model, &[token], &position_ids, past, &mut self.decode_buffers);
        for layer in 0..config.num_hidden_layers {
            pass.project(layer, &mut self.cache)?;
            let (k, v) = self.cache.views(layer, 0..self.cache.capacity())?;
            let (q, out) = pass.attention_buffers();
            self.decode_plan.run(
                &TensorView::bshd(q, 1, 1, heads, head_dim)?,
                &k,
                &v,
                &[past as u32 + 1],
                &mut TensorViewMut::bshd(out, 1, 1, heads, head_dim)?,
                None,
            )?;
            pass.finish(layer)?;
        }
        pass.logits(&mut self.decode_logits)?;
        self.positions.commit(&position_ids);
        Ok(&self.decode_logits)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.positions.truncate(len)
    }

    fn len(&self) -> usize {
        self.positions.len()
    }

    fn capacity(&self) -> usize {
        self.positions.capacity()
    }
}

impl<T: Element + Pod> KvSession for LlamaSession<'_, T> {
    fn pass(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput> {
        self.run(tokens, options, observer)
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.positions.keep(rows)?;
        self.cache.keep(rows);
        Ok(())
    }

    fn duplicate(&mut self, rows: Range<usize>) -> Result<()> {
        let to = self.positions.len();
        self.positions.duplicate(rows.clone())?;
        self.cache.duplicate(rows, to);
        Ok(())
    }

    fn read_kv(&mut self, rows: Range<usize>) -> Result<KvRows> {
        self.positions.check_rows(&rows)?;
        let mut bytes = Vec::new();
        let size = rows.len() * self.cache.bytes_per_token();
        bytes.try_reserve_exact(size).map_err(|_| crate::Error::OutOfMemory {
            what: "keys and values to send",
            bytes: size as u128,
        })?;
        for layer in 0..self.model.config.num_hidden_layers {
            self.cache.read(layer, rows.clone(), &mut bytes);
        }
        Ok(KvRows { position_ids: self.positions.cached()[rows].to_vec(), bytes })
    }

    fn append_kv(&mut self, rows: &KvRows) -> Result<()> {
        let KvRows { position_ids, bytes } = rows;
        let (tokens, per_token) = (position_ids.len(), self.cache.bytes_per_token());
        rows.check(per_token)?;
        self.positions.check_room(tokens)?;
        let layers = self.model.config.num_hidden_layers;
        let per_layer = tokens * per_token / layers;
        for layer in 0..layers {
            self.cache.write(layer, self.positions.len(), tokens, &bytes[layer * per_layer..][..per_layer]);
        }
        self.positions.commit(position_ids);
        Ok(())
    }

    fn read_k(&mut self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        check_layer(layer, self.model.config.num_hidden_layers)?;
        self.positions.check_rows(&rows)?;
        self.cache.read_k(layer, rows)
    }

    fn position_ids(&self) -> &[u32] {
        self.positions.cached()
    }

    fn continue_at(&mut self, position: u32) {
        self.positions.continue_at(position);
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.cache.bytes_per_token()
    }
}
