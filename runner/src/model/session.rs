//! One context of a Llama model: prefill, decode, rollback.

use std::borrow::Cow;
use std::time::Instant;

use lacuna::{
    AttentionOptions, AttentionShape, DecodeShape, Device, Element, Pattern, Selection, Seqlens, TensorView,
    TensorViewMut, ThresholdTable, XAttentionOptions, decode_attention, prefill,
};

use super::forward::{Buffers, Pass};
use super::kv_cache::KvCache;
use super::llama::Llama;
use super::report::{ForwardReport, LayerReport};
use crate::error::allocate;
use crate::{Error, Result};

/// One context of a model: the tokens so far, as keys and values.
pub trait Session: Send {
    /// Runs `tokens` after those cached and returns the logits of the rows asked for, `[rows, vocab_size]` in the order
    /// asked, and what it cost.
    ///
    /// Where an error comes back the context is as it was before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no tokens, for a token outside the vocabulary and for rows and positions that do not
    /// exist, [`Error::TooLong`] beyond the capacity or `max_position_embeddings`, [`Error::NotFinite`] where the
    /// arithmetic breaks down, [`Error::Attention`] for options of the pattern that are out of range.
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)>;

    /// Runs one token, dense, at the position after the last one, and returns its logits.
    ///
    /// # Errors
    /// As [`Session::forward`].
    fn decode(&mut self, token: u32) -> Result<&[f32]>;

    /// Forgets all tokens but the first `len`, so that another continuation of the same prompt can be run.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more tokens than are cached.
    fn truncate(&mut self, len: usize) -> Result<()>;

    /// Tokens cached.
    fn len(&self) -> usize;

    /// Whether no token is cached.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens there is room for.
    fn capacity(&self) -> usize;
}

/// How to run a forward pass.
#[derive(Debug, Clone, Default)]
pub struct ForwardOptions<'a> {
    /// The attention pattern of every layer. Default dense.
    pub pattern: Pattern,
    /// Thresholds of [`Pattern::XAttention`], in the place of its own: one per layer and query head. Default none.
    pub thresholds: Option<ThresholdTable>,
    /// The position of each token. Default: on from the last cached one.
    pub position_ids: Option<&'a [u32]>,
    /// Which rows to return logits of. Default the last.
    pub logits: LogitRows<'a>,
}

impl ForwardOptions<'_> {
    /// Refuses thresholds for a model of other sizes, or for a pattern that has none.
    fn check(&self, layers: usize, heads: usize) -> Result<()> {
        let Some(table) = &self.thresholds else { return Ok(()) };
        if !matches!(self.pattern, Pattern::XAttention(_)) {
            return Err(Error::invalid("thresholds", "given for xattention alone", self.pattern.name()));
        }
        let (expected, got) = ([layers, heads], [table.num_layers(), table.num_heads()]);
        if expected == got {
            return Ok(());
        }
        let sizes = |[layers, heads]: [usize; 2]| format!("{layers} layers of {heads} heads");
        Err(Error::invalid("thresholds", sizes(expected), sizes(got)))
    }

    /// The pattern of a layer.
    fn pattern_of(&self, layer: usize) -> Cow<'_, Pattern> {
        match (&self.pattern, &self.thresholds) {
            (Pattern::XAttention(options), Some(table)) => {
                let threshold = table.of_layer(layer);
                Cow::Owned(Pattern::XAttention(XAttentionOptions { threshold, ..options.clone() }))
            }
            (pattern, _) => Cow::Borrowed(pattern),
        }
    }
}

/// Rows of logits to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogitRows<'a> {
    /// The last token's.
    #[default]
    Last,
    /// These, counted within the tokens of this pass; any order.
    These(&'a [usize]),
}

/// Watches a forward pass. `()` looks away.
pub trait Observer {
    /// What the pattern chose in a layer, for all heads.
    fn selection(&mut self, layer: usize, selection: Selection<'_>) {
        let _ = (layer, selection);
    }

    /// A layer is done.
    fn layer(&mut self, layer: usize, report: &LayerReport) {
        let _ = (layer, report);
    }
}

impl Observer for () {}

pub(crate) struct LlamaSession<'m, T: Element> {
    model: &'m Llama<T>,
    cache: KvCache<T>,
    decode_plan: decode_attention::Plan<T>,
    decode_buffers: Buffers<T>,
    decode_logits: Vec<f32>,
}

impl<'m, T: Element> LlamaSession<'m, T> {
    pub fn new(model: &'m Llama<T>, capacity: usize) -> Result<Self> {
        let config = &model.config;
        if capacity == 0 {
            return Err(Error::invalid("capacity", "at least 1 token", capacity));
        }
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
            cache: KvCache::new(config.num_hidden_layers, num_heads_k, head_dim, capacity)?,
            decode_plan: decode_attention::Plan::new(Device::Cpu, &shape, &AttentionOptions::default())?,
            decode_buffers: Buffers::new(config, 1)?,
            decode_logits: allocate("logits", config.vocab_size)?,
        })
    }

    /// The positions of `tokens`, all checks of both passed.
    fn check(&self, tokens: &[u32], position_ids: Option<&[u32]>) -> Result<Vec<u32>> {
        let config = &self.model.config;
        if tokens.is_empty() {
            return Err(Error::invalid("tokens", "at least 1 token", "none"));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= config.vocab_size) {
            return Err(Error::invalid(
                "tokens",
                format_args!("ids below vocab_size ({})", config.vocab_size),
                token,
            ));
        }
        let end = self.cache.len().saturating_add(tokens.len());
        if end > self.cache.capacity() {
            return Err(Error::TooLong {
                what: "the context",
                tokens: end,
                limit_name: "the session's capacity",
                limit: self.cache.capacity(),
            });
        }
        let position_ids = match position_ids {
            Some(ids) if ids.len() != tokens.len() => {
                return Err(Error::invalid(
                    "position_ids",
                    format_args!("one for each of {} tokens", tokens.len()),
                    ids.len(),
                ));
            }
            Some(ids) => ids.to_vec(),
            None => (self.cache.next_position()..).take(tokens.len()).collect(),
        };
        let needed = position_ids.iter().max().map_or(0, |&p| p as usize + 1);
        if needed > config.max_position_embeddings {
            return Err(Error::TooLong {
                what: "the context",
                tokens: needed,
                limit_name: "max_position_embeddings",
                limit: config.max_position_embeddings,
            });
        }
        Ok(position_ids)
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
        let position_ids = self.check(tokens, options.position_ids)?;
        let last = [tokens.len() - 1];
        let rows = match options.logits {
            LogitRows::Last => &last[..],
            LogitRows::These(rows) => rows,
        };
        if let Some(row) = rows.iter().find(|&&row| row >= tokens.len()) {
            return Err(Error::invalid("logits", format_args!("rows below {} tokens", tokens.len()), row));
        }
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        options.check(config.num_hidden_layers, heads)?;
        let (past, len) = (self.cache.len(), tokens.len());
        let seqlens = Seqlens::single(len, past + len)?;
        let shape = AttentionShape::new(heads, config.num_key_value_heads, head_dim, seqlens)?;
        let plan_of = |layer: usize| {
            let pattern = options.pattern_of(layer);
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
                pass.keep_rows(rows);
            }
            pass.finish(layer)?;
            let report = LayerReport::new(attention, layer_start.elapsed());
            observer.layer(layer, &report);
            layers.push(report);
        }
        let mut logits = allocate("logits", rows.len() * config.vocab_size)?;
        pass.logits(&mut logits)?;
        self.cache.commit(&position_ids);
        Ok((logits, ForwardReport { tokens: len, layers, total: start.elapsed() }))
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        let config = &self.model.config;
        let position_ids = self.check(&[token], None)?;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let past = self.cache.len();
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
        self.cache.commit(&position_ids);
        Ok(&self.decode_logits)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.cache.len() {
            return Err(Error::invalid(
                "len",
                format_args!("at most {} cached tokens", self.cache.len()),
                len,
            ));
        }
        self.cache.truncate(len);
        Ok(())
    }

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn capacity(&self) -> usize {
        self.cache.capacity()
    }
}
