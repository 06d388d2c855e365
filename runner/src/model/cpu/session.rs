//! One context of a Llama model on the CPU: prefill, decode, rollback.

use std::borrow::Cow;
use std::time::Instant;

use lacuna::{
    AttentionOptions, AttentionShape, DecodeShape, Device, Element, Pattern, Seqlens, TensorView,
    TensorViewMut, XAttentionOptions, decode_attention, prefill,
};

use super::forward::{Buffers, Pass};
use super::kv_cache::KvCache;
use super::llama::Llama;
use crate::Result;
use crate::error::allocate;
use crate::model::positions::Positions;
use crate::model::{ForwardOptions, ForwardReport, LayerReport, Observer, Session};

pub(crate) struct LlamaSession<'m, T: Element> {
    model: &'m Llama<T>,
    positions: Positions,
    cache: KvCache<T>,
    decode_plan: decode_attention::Plan<T>,
    decode_buffers: Buffers<T>,
    decode_logits: Vec<f32>,
}

impl<'m, T: Element> LlamaSession<'m, T> {
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

impl<T: Element> Session for LlamaSession<'_, T> {
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        let start = Instant::now();
        let config = &self.model.config;
        let position_ids = self.positions.of_next(config, tokens, options.position_ids)?;
        let rows = options.rows(tokens.len())?;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        options.check(config.num_hidden_layers, heads)?;
        let (past, len) = (self.positions.len(), tokens.len());
        let seqlens = Seqlens::single(len, past + len)?;
        let shape = AttentionShape::new(heads, config.num_key_value_heads, head_dim, seqlens)?;
        let plan_of = |layer: usize| {
            let pattern = pattern_of(options, layer);
            prefill::Plan::new(Device::Cpu, &shape, &AttentionOptions::default(), &pattern)
        };
        let mut plan = Some(plan_of(0)?);

        let mut buffers = Buffers::new(config, len)?;
        let mut pass = Pass::new(self.model, tokens, &position_ids, past, &mut buffers);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let layer_start = Instant::now();
            if layer > 0 && options.thresholds.is_some() {
                // The memory of one plan is enough.
                plan = None;
            }
            let plan = match &mut plan {
                Some(plan) => plan,
                plan => plan.insert(plan_of(layer)?),
            };
            pass.project(layer, &mut self.cache)?;
            let (k, v) = self.cache.views(layer, past + len)?;
            let (q, out) = pass.attention_buffers();
            let attention = plan.run_observed(
                &TensorView::thd(q, len, heads, head_dim)?,
                &k,
                &v,
                &mut TensorViewMut::thd(out, len, heads, head_dim)?,
                None,
                |selection| observer.selection(layer, selection),
            )?;
            if layer + 1 == config.num_hidden_layers {
                pass.keep_rows(&rows);
            }
            pass.finish(layer)?;
            let report = LayerReport::new(attention, layer_start.elapsed());
            observer.layer(layer, &report);
            layers.push(report);
        }
        let mut logits = allocate("logits", rows.len() * config.vocab_size)?;
        pass.logits(&mut logits)?;
        self.positions.commit(&position_ids);
        Ok((logits, ForwardReport { tokens: len, layers, total: start.elapsed() }))
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        let config = &self.model.config;
        let position_ids = self.positions.of_next(config, &[token], None)?;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let past = self.positions.len();
        let mut pass = Pass::new(self.model, &[token], &position_ids, past, &mut self.decode_buffers);
        for layer in 0..config.num_hidden_layers {
            pass.project(layer, &mut self.cache)?;
            let (k, v) = self.cache.views(layer, self.cache.capacity())?;
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

/// The pattern of a layer, with its own thresholds where there are some.
fn pattern_of<'a>(options: &'a ForwardOptions, layer: usize) -> Cow<'a, Pattern> {
    match (&options.pattern, &options.thresholds) {
        (Pattern::XAttention(x_options), Some(table)) => {
            let threshold = table.of_layer(layer);
            Cow::Owned(Pattern::XAttention(XAttentionOptions { threshold, ..x_options.clone() }))
        }
        (pattern, _) => Cow::Borrowed(pattern),
    }
}
