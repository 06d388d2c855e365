//! A pass of some tokens: layer by layer, its attention over what the options say.

use std::borrow::Cow;
use std::time::Instant;

use bytemuck::Pod;
use lacuna::cpu::column_mass::column_mass;
use lacuna::{
    AttentionOptions, AttentionShape, Device, Element, Pattern, Report, Seqlens, TensorView, TensorViewMut,
    XAttentionOptions, prefill,
};

use super::forward::{Buffers, Pass};
use super::ring::Ring;
use super::session::LlamaSession;
use super::shards::ShardPlans;
use crate::Result;
use crate::error::allocate;
use crate::model::kv_session::{ColumnMass, PassOptions, PassOutput, Reads};
use crate::model::{ForwardOptions, ForwardReport, LayerReport, Observer};

impl<T: Element + Pod> LlamaSession<'_, T> {
    /// [`crate::model::KvSession::pass`].
    pub(super) fn run(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput> {
        let start = Instant::now();
        let Self { model, positions, cache, decode_plan, .. } = self;
        let config = &model.config;
        let first_state = options.first_hidden_state(config.num_hidden_layers);
        let PassOptions { forward, mut reads, column_mass, hidden_states } = options;
        let position_ids = positions.of_next(config, tokens, forward.position_ids)?;
        let rows = forward.rows(tokens.len())?;
        let layers = config.num_hidden_layers;
        forward.check(layers, config.num_attention_heads)?;
        let (past, len) = (positions.len(), tokens.len());
        reads.check(&forward.pattern, len, past, column_mass.as_ref())?;
        let mut attention = match &mut reads {
            Reads::Cached { from } => {
                Attention::Cached(Cached::new(config, &forward, *from, past, len, column_mass)?)
            }
            Reads::Shards(shards) => Attention::Shards(ShardPlans::new(config, shards, past, len)?),
            Reads::Ring(comm) => Attention::Ring(Ring::new(config, *comm, len)),
        };

        let mut buffers = Buffers::new(config, len)?;
        let mut pass = Pass::new(model, tokens, &position_ids, past, &mut buffers);
        let mut reports = Vec::with_capacity(layers);
        let mut states = Vec::new();
        if first_state == 0 {
            states.push(pass.hidden_state(false)?);
        }
        for layer in 0..layers {
            let layer_start = Instant::now();
            pass.project(layer, cache)?;
            let (q, out) = pass.attention_buffers();
            let report = match &mut attention {
                Attention::Cached(cached) => cached.run(layer, q, cache, out, observer)?,
                Attention::Shards(plans) => plans.run(layer, q, cache, decode_plan, out)?,
                Attention::Ring(ring) => ring.run(layer, q, cache, past, out)?,
            };
            if layer + 1 == layers && hidden_states == 0 {
                pass.keep_rows(&rows);
            }
            pass.finish(layer)?;
            if layer + 1 >= first_state {
                states.push(pass.hidden_state(layer + 1 == layers)?);
            }
            let report = LayerReport::new(report, layer_start.elapsed());
            observer.layer(layer, &report);
            reports.push(report);
        }
        if hidden_states > 0 {
            pass.keep_rows(&rows);
        }
        let mut logits = allocate("logits", rows.len() * config.vocab_size)?;
        pass.logits(&mut logits)?;
        let column_mass = match attention {
            Attention::Cached(Cached { mass, .. }) => mass,
            _ => Vec::new(),
        };
        if reads.caches() {
            self.positions.commit(&position_ids);
        }
        let report = ForwardReport { tokens: len, layers: reports, total: start.elapsed() };
        Ok(PassOutput { logits, report, column_mass, hidden_states: states })
    }
}

/// What a pass reads.
enum Attention<'a, 's, T: Element> {
    Cached(Cached<'a, T>),
    Shards(ShardPlans<'a, 's, T>),
    Ring(Ring<'a>),
}

/// Attention over the cached rows from one on, under a pattern.
struct Cached<'a, T: Element> {
    options: &'a ForwardOptions<'a>,
    shape: AttentionShape,
    from: usize,
    plan: Option<prefill::Plan<T>>,
    column_mass: Option<ColumnMass>,
    /// Summed so far.
    mass: Vec<f32>,
    /// Of the layer, where column mass is asked for.
    softmax_lse: Vec<f32>,
}

impl<'a, T: Element> Cached<'a, T> {
    fn new(
        config: &crate::model::Config,
        options: &'a ForwardOptions<'a>,
        from: usize,
        past: usize,
        len: usize,
        column_mass: Option<ColumnMass>,
    ) -> Result<Self> {
        let seqlens = Seqlens::single(len, past - from + len)?;
        let heads = config.num_attention_heads;
        let shape = AttentionShape::new(heads, config.num_key_value_heads, config.head_dim, seqlens)?;
        let columns = column_mass.as_ref().map_or(0, |mass| mass.columns.len());
        let lse = if column_mass.is_some() { heads * len } else { 0 };
        let mut cached = Self {
            options,
            shape,
            from,
            plan: None,
            column_mass,
            mass: allocate("column mass", columns)?,
            softmax_lse: allocate("column mass", lse)?,
        };
        // Options that are out of range are refused before anything is computed.
        cached.plan = Some(cached.plan_of(0)?);
        Ok(cached)
    }

    fn plan_of(&self, layer: usize) -> Result<prefill::Plan<T>> {
        let pattern = pattern_of(self.options, layer);
        Ok(prefill::Plan::new(Device::Cpu, &self.shape, &AttentionOptions::default(), &pattern)?)
    }

    fn run(
        &mut self,
        layer: usize,
        q: &[T],
        cache: &super::kv_cache::KvCache<T>,
        out: &mut [T],
        observer: &mut dyn Observer,
    ) -> Result<Report> {
        if layer > 0 && self.options.thresholds.is_some() {
            // The memory of one plan is enough.
            self.plan = None;
        }
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => self.plan_of(layer)?,
        };
        let plan = self.plan.insert(plan);
        let (heads, head_dim) = (self.shape.num_heads, self.shape.head_dim);
        let (len, seqlen_k) = (self.shape.seqlens.total_q(), self.shape.seqlens.total_k());
        let (k, v) = cache.views(layer, self.from..self.from + seqlen_k)?;
        let q = TensorView::thd(q, len, heads, head_dim)?;
        let lse = self.column_mass.as_ref().map(|_| &mut self.softmax_lse[..]);
        let report = plan.run_observed(
            &q,
            &k,
            &v,
            &mut TensorViewMut::thd(out, len, heads, head_dim)?,
            lse,
            |selection| observer.selection(layer, selection),
        )?;
        if let Some(ColumnMass { rows, columns }) = &self.column_mass {
            let columns = columns.start - self.from..columns.end - self.from;
            let options = AttentionOptions::default();
            column_mass(
                &self.shape,
                &q,
                &k,
                &self.softmax_lse,
                0,
                rows.clone(),
                columns,
                &options,
                &mut self.mass,
            )?;
        }
        Ok(report)
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
