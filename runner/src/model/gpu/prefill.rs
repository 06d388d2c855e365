//! A pass of many tokens: layer by layer, the parts around attention in slices.

use std::time::{Duration, Instant};

use bytemuck::Pod;
use lacuna::gpu::{self, Context, DeviceBuffer, Event};
use lacuna::{AttentionOptions, AttentionShape, Element, Report, Seqlens, Threshold};

use super::buffers::{Activations, Kept, Tokens};
use super::gather::Gather;
use super::llama::Llama;
use super::operations::{Parts, Place};
use super::session::LlamaSession;
use crate::error::allocate;
use crate::model::{ForwardOptions, ForwardReport, LayerReport, Observer};
use crate::{Error, Result};

/// Rows of logits that are on the device at a time.
const LOGIT_ROWS: usize = 128;

/// The plans and the memory of one pass: all of it is there before anything runs.
pub(super) struct Prefill<T: Element> {
    past: usize,
    rows: usize,
    attention: gpu::prefill::Plan<T>,
    /// Layer by layer, where the options have a table of them.
    thresholds: Vec<Option<DeviceBuffer<f32>>>,
    ids: DeviceBuffer<u32>,
    position_ids: DeviceBuffer<u32>,
    embed: Gather<T>,
    tokens: Tokens<T>,
    kept: Kept<T>,
    activations: Activations<T>,
    logits: DeviceBuffer<f32>,
    host_logits: Vec<f32>,
    marks: Marks,
}

impl<T: Element + Pod> Prefill<T> {
    /// Plans a pass of `tokens` after `past` others, whose logits of `rows` are wanted.
    pub fn new(
        model: &Llama<T>,
        past: usize,
        tokens: &[u32],
        position_ids: &[u32],
        rows: &[usize],
        options: &ForwardOptions,
    ) -> Result<Self> {
        let Llama { context, config, .. } = model;
        let len = tokens.len();
        let seqlens = Seqlens::single(len, past + len)?;
        let (heads, heads_k) = (config.num_attention_heads, config.num_key_value_heads);
        let shape = AttentionShape::new(heads, heads_k, config.head_dim, seqlens)?;
        let logit_rows = rows.len().clamp(1, LOGIT_ROWS);
        let thresholds = (0..config.num_hidden_layers).map(|layer| thresholds_of(context, options, layer));
        Ok(Self {
            past,
            rows: rows.len(),
            attention: gpu::prefill::Plan::new(
                context,
                &shape,
                &AttentionOptions::default(),
                &options.pattern,
            )?,
            thresholds: thresholds.collect::<Result<_>>()?,
            ids: DeviceBuffer::from_host(context, tokens, "token ids")?,
            position_ids: DeviceBuffer::from_host(context, position_ids, "position ids")?,
            embed: Gather::new(context, config.vocab_size, config.hidden_size, len)?,
            tokens: Tokens::new(context, config, len)?,
            kept: Kept::new(context, config, len, rows)?,
            logits: DeviceBuffer::uninit(context, logit_rows * config.vocab_size, "logits")?,
            host_logits: allocate("logits", rows.len() * config.vocab_size)?,
            marks: Marks::new(context)?,
            // Last, since it takes what is left.
            activations: Activations::fitting(context, config, len)?,
        })
    }

    /// Queues what comes before the first layer's attention.
    pub fn begin(&mut self, parts: &mut Parts<T>) -> Result<()> {
        let Self { embed, ids, position_ids, tokens, activations, marks, past, .. } = self;
        marks.start.record(parts.stream)?;
        embed.run(parts.stream, &parts.model.embed_tokens, ids, &mut tokens.x)?;
        let mut pass = parts.pass(tokens, activations);
        for slice in pass.activations.slices(pass.tokens.len(), usize::MAX) {
            pass.before_attention(0, slice, false, Place::Host { position_ids, past: *past })?;
        }
        Ok(())
    }

    /// Queues the attention of a layer and all up to the next one's; after the last layer, makes the logits.
    pub fn layer(&mut self, parts: &mut Parts<T>, layer: usize) -> Result<()> {
        let Self { attention, thresholds, position_ids, tokens, kept, activations, marks, past, .. } = self;
        let Parts { model, stream, .. } = *parts;
        let len = tokens.len();
        let (k, v) = parts.cache.views(layer, *past + len)?;
        let (q, mut out) = tokens.attention_mut()?;
        marks.projected.record(stream)?;
        match &thresholds[layer] {
            Some(thresholds) => attention.search_with_thresholds(stream, &q, &k, thresholds)?,
            None => attention.search(stream, &q, &k)?,
        }
        marks.searched.record(stream)?;
        attention.attend(stream, &q, &k, &v, &mut out, None)?;
        marks.attended.record(stream)?;
        if layer + 1 < model.layers.len() {
            let mut pass = parts.pass(tokens, activations);
            for slice in pass.activations.slices(len, usize::MAX) {
                pass.after_attention(layer, slice)?;
                let place = Place::Host { position_ids, past: *past };
                pass.before_attention(layer + 1, slice, true, place)?;
            }
        } else {
            tokens.keep(stream, kept)?;
            let vocab_size = model.config.vocab_size;
            let mut pass = parts.pass(tokens, activations);
            for slice in pass.activations.slices(self.rows, LOGIT_ROWS) {
                pass.after_attention(layer, slice)?;
                pass.logits(slice, &mut self.logits)?;
                let host = &mut self.host_logits[slice.start * vocab_size..][..slice.len * vocab_size];
                self.logits.copy_to_host(stream, 0, host)?;
            }
        }
        Ok(self.marks.end.record(stream)?)
    }
}

impl<T: Element + Pod> LlamaSession<'_, T> {
    /// [`crate::model::Session::forward`]. The host waits for the device once per layer, when all of the layer is queued: for
    /// the report, and to stop where numbers are no longer finite.
    pub(super) fn prefill(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)> {
        let start = Instant::now();
        let config = &self.model.config;
        let position_ids = self.positions.of_next(config, tokens, options.position_ids)?;
        let rows = options.rows(tokens.len())?;
        let layers = config.num_hidden_layers;
        options.check(layers, config.num_attention_heads)?;
        let past = self.positions.len();
        self.reach(position_ids.iter().copied().max().unwrap_or(0))?;
        let mut pass = Prefill::new(self.model, past, tokens, &position_ids, &rows, options)?;
        // A step of decoding that is in flight comes before all that follows, and is forgotten.
        self.decoder.drop_ahead();

        let (mut parts, _) = self.split();
        pass.begin(&mut parts)?;
        let mut reports = Vec::with_capacity(layers);
        for layer in 0..layers {
            pass.layer(&mut parts, layer)?;
            let selection = pass.attention.fetch_selection(parts.stream)?;
            let density = selection.density(true);
            observer.selection(layer, selection);
            if let Some(row) = pass.tokens.first_not_finite(parts.stream)? {
                let what = format_args!("the activations after layer {layer}");
                let token = past + if layer + 1 == layers { rows[row] } else { row };
                return Err(Error::not_finite(what, token, T::DTYPE));
            }
            let report = pass.marks.report(density)?;
            observer.layer(layer, &report);
            reports.push(report);
            pass.marks.start.record(parts.stream)?;
        }
        let logits = pass.host_logits;
        if let Some(i) = logits.iter().position(|x| !x.is_finite()) {
            return Err(Error::not_finite("the logits", past + rows[i / config.vocab_size], T::DTYPE));
        }
        self.positions.commit(&position_ids);
        Ok((logits, ForwardReport { tokens: tokens.len(), layers: reports, total: start.elapsed() }))
    }
}

/// The thresholds of a layer's heads, where the options have a table of them.
fn thresholds_of(
    context: &Context,
    options: &ForwardOptions,
    layer: usize,
) -> Result<Option<DeviceBuffer<f32>>> {
    let Some(table) = &options.thresholds else { return Ok(None) };
    let Threshold::PerHead(of_heads) = table.of_layer(layer) else {
        unreachable!("a layer of a table has a threshold per head")
    };
    Ok(Some(DeviceBuffer::from_host(context, &of_heads, "thresholds")?))
}

/// Marks in the stream, from one layer to the next.
struct Marks {
    start: Event,
    projected: Event,
    searched: Event,
    attended: Event,
    end: Event,
}

impl Marks {
    fn new(context: &Context) -> lacuna::Result<Self> {
        let event = || context.new_event();
        Ok(Self {
            start: event()?,
            projected: event()?,
            searched: event()?,
            attended: event()?,
            end: event()?,
        })
    }

    /// What the device's clock says of a layer. What lies before its attention is counted with the layer before it, but for
    /// the first.
    fn report(&self, density: f64) -> lacuna::Result<LayerReport> {
        let between = |from: &Event, to: &Event| -> lacuna::Result<Duration> {
            Ok(Duration::from_secs_f32(from.elapsed_ms(to)?.max(0.0) / 1e3))
        };
        let search = between(&self.projected, &self.searched)?;
        let attention = between(&self.searched, &self.attended)?;
        let total = between(&self.start, &self.end)?;
        Ok(LayerReport::new(Report { density, search, attention }, total))
    }
}
