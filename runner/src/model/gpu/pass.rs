//! A pass of many tokens: layer by layer, the parts around attention in slices.

use std::time::Instant;

use bytemuck::Pod;
use lacuna::Element;
use lacuna::gpu::{DeviceBuffer, decode_attention};

use super::attention::Attention;
use super::buffers::{Activations, Kept, Tokens, download};
use super::cached::Cached;
use super::gather::Gather;
use super::llama::Llama;
use super::marks::Marks;
use super::operations::{Parts, Place};
use super::ring::Ring;
use super::session::LlamaSession;
use super::shards::ShardPlans;
use crate::error::allocate;
use crate::model::kv_session::Reads;
use crate::model::{ForwardReport, Observer, PassOptions, PassOutput};
use crate::{Error, Result};

/// Rows of logits that are on the device at a time.
const LOGIT_ROWS: usize = 128;

/// The plans and the memory of one pass: all of it is there before anything runs.
struct TokensPass<'a, 's, T: Element> {
    past: usize,
    rows: Vec<usize>,
    attention: Attention<'a, 's, T>,
    ids: DeviceBuffer<u32>,
    position_ids: DeviceBuffer<u32>,
    embed: Gather<T>,
    tokens: Tokens<T>,
    kept: Kept<T>,
    activations: Activations<T>,
    logits: DeviceBuffer<f32>,
    host_logits: Vec<f32>,
    /// The first of the hidden states to return: 0 are the embeddings, and beyond the last layer's there is none.
    first_state: usize,
    hidden_states: Vec<Vec<f32>>,
    marks: Marks,
}

impl<'a, 's, T: Element + Pod> TokensPass<'a, 's, T> {
    /// Plans a pass of `tokens` after `past` others, whose logits of `rows` are wanted.
    fn new(
        model: &Llama<T>,
        past: usize,
        tokens: &[u32],
        position_ids: &[u32],
        rows: Vec<usize>,
        first_state: usize,
        attention: Attention<'a, 's, T>,
    ) -> Result<Self> {
        let Llama { context, config, .. } = model;
        let len = tokens.len();
        let logit_rows = rows.len().clamp(1, LOGIT_ROWS);
        Ok(Self {
            past,
            attention,
            ids: DeviceBuffer::from_host(context, tokens, "token ids")?,
            position_ids: DeviceBuffer::from_host(context, position_ids, "position ids")?,
            embed: Gather::new(context, config.vocab_size, config.hidden_size, len)?,
            tokens: Tokens::new(context, config, len)?,
            kept: Kept::new(context, config, len, &rows)?,
            logits: DeviceBuffer::uninit(context, logit_rows * config.vocab_size, "logits")?,
            host_logits: allocate("logits", rows.len() * config.vocab_size)?,
            rows,
            first_state,
            hidden_states: Vec::new(),
            marks: Marks::new(context)?,
            // Last, since it takes what is left.
            activations: Activations::fitting(context, config, len)?,
        })
    }

    /// Queues what comes before the first layer's attention.
    fn begin(&mut self, parts: &mut Parts<T>) -> Result<()> {
        let Self { embed, ids, position_ids, tokens, activations, marks, past, .. } = self;
        marks.start.record(parts.stream)?;
        embed.run(parts.stream, &parts.model.embed_tokens, ids, &mut tokens.x)?;
        let mut pass = parts.pass(tokens, activations);
        for slice in pass.activations.slices(pass.tokens.len(), usize::MAX) {
            pass.before_attention(0, slice, false, Place::Host { position_ids, past: *past })?;
        }
        self.return_state(parts, 0)
    }

    /// Queues the attention of a layer and all up to the next one's; after the last layer, makes the logits.
    fn layer(
        &mut self,
        parts: &mut Parts<T>,
        decode: &mut decode_attention::Plan<T>,
        layer: usize,
    ) -> Result<()> {
        let Self { attention, position_ids, tokens, activations, marks, past, .. } = self;
        attention.run(layer, parts, decode, tokens, marks)?;
        if layer + 1 < parts.model.layers.len() {
            let mut pass = parts.pass(tokens, activations);
            for slice in pass.activations.slices(pass.tokens.len(), usize::MAX) {
                pass.after_attention(layer, slice)?;
                let place = Place::Host { position_ids, past: *past };
                pass.before_attention(layer + 1, slice, true, place)?;
            }
            self.return_state(parts, layer + 1)?;
        } else if self.first_state > layer + 1 {
            self.finish(parts, layer)?;
        } else {
            self.finish_with_state(parts, layer)?;
        }
        Ok(self.marks.end.record(parts.stream)?)
    }

    /// Copies the residual stream to the host, where it is one of the hidden states to return.
    fn return_state(&mut self, parts: &Parts<T>, state: usize) -> Result<()> {
        if state >= self.first_state {
            let len = self.tokens.len() * parts.model.config.hidden_size;
            self.hidden_states.push(download(&self.tokens.x, parts.stream, len)?);
        }
        Ok(())
    }

    /// The half of the last layer after its attention, and the logits: of the rows that are asked for.
    fn finish(&mut self, parts: &mut Parts<T>, layer: usize) -> Result<()> {
        self.tokens.keep(parts.stream, &mut self.kept)?;
        self.logits(parts, Some(layer))
    }

    /// As [`TokensPass::finish`], of all rows up to the last norm.
    fn finish_with_state(&mut self, parts: &mut Parts<T>, layer: usize) -> Result<()> {
        let Self { tokens, activations, .. } = self;
        let (stream, hidden_size) = (parts.stream, parts.model.config.hidden_size);
        let mut state = allocate("hidden states", tokens.len() * hidden_size)?;
        let mut pass = parts.pass(tokens, activations);
        for slice in pass.activations.slices(pass.tokens.len(), usize::MAX) {
            pass.after_attention(layer, slice)?;
            pass.final_norm(slice, true)?;
            let normed = download(&pass.activations.normed, stream, slice.len * hidden_size)?;
            state[slice.start * hidden_size..][..normed.len()].copy_from_slice(&normed);
        }
        self.hidden_states.push(state);
        // While all rows are still there: from here on those that are kept are counted by themselves.
        if let Some(row) = self.tokens.first_not_finite(stream)? {
            return Err(self.not_finite(layer, row));
        }
        self.tokens.keep(stream, &mut self.kept)?;
        self.logits(parts, None)
    }

    /// The logits of the rows that were kept, after the half of the last layer that follows its attention where that is still to
    /// be run.
    fn logits(&mut self, parts: &mut Parts<T>, after_attention: Option<usize>) -> Result<()> {
        let Self { tokens, activations, logits, host_logits, .. } = self;
        let vocab_size = parts.model.config.vocab_size;
        let stream = parts.stream;
        let mut pass = parts.pass(tokens, activations);
        for slice in pass.activations.slices(pass.tokens.len(), LOGIT_ROWS) {
            if let Some(layer) = after_attention {
                pass.after_attention(layer, slice)?;
            }
            pass.final_norm(slice, after_attention.is_some())?;
            pass.logits(slice, logits)?;
            let host = &mut host_logits[slice.start * vocab_size..][..slice.len * vocab_size];
            logits.copy_to_host(stream, 0, host)?;
        }
        Ok(())
    }

    fn not_finite(&self, layer: usize, row: usize) -> Error {
        let what = format_args!("the activations after layer {layer}");
        Error::not_finite(what, self.past + row, T::DTYPE)
    }
}

impl<T: Element + Pod> LlamaSession<'_, T> {
    /// [`crate::model::KvSession::pass`]. The host waits for the device once per layer, when all of the layer is queued: for
    /// the report, and to stop where numbers are no longer finite. Besides it waits for what it asks to see.
    pub(super) fn run(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput> {
        let start = Instant::now();
        let Llama { context, config, .. } = self.model;
        let layers = config.num_hidden_layers;
        let first_state = options.first_hidden_state(layers);
        let PassOptions { forward, mut reads, column_mass, .. } = options;
        let position_ids = self.positions.of_next(config, tokens, forward.position_ids)?;
        let rows = forward.rows(tokens.len())?;
        forward.check(layers, config.num_attention_heads)?;
        let (past, len) = (self.positions.len(), tokens.len());
        reads.check(&forward.pattern, len, past, column_mass.as_ref())?;
        self.reach(position_ids.iter().copied().max().unwrap_or(0))?;
        let attention = match &mut reads {
            Reads::Cached { from } => {
                let cached = Cached::new(context, config, &forward, *from, past, len, column_mass)?;
                Attention::Cached(Box::new(cached))
            }
            Reads::Shards(shards) => Attention::Shards(ShardPlans::new(context, config, shards, past, len)?),
            Reads::Ring(comm) => Attention::Ring(Ring::new(context, config, *comm, len)?),
        };
        let mut pass =
            TokensPass::new(self.model, past, tokens, &position_ids, rows, first_state, attention)?;
        // A step of decoding that is in flight comes before all that follows, and is forgotten.
        self.decoder.drop_ahead();

        let (mut parts, decoder) = self.split();
        pass.begin(&mut parts)?;
        let mut reports = Vec::with_capacity(layers);
        for layer in 0..layers {
            pass.layer(&mut parts, &mut decoder.attention, layer)?;
            let density = pass.attention.density(parts.stream, layer, observer)?;
            if let Some(row) = pass.tokens.first_not_finite(parts.stream)? {
                let row = if layer + 1 == layers { pass.rows[row] } else { row };
                return Err(pass.not_finite(layer, row));
            }
            let report = pass.marks.report(density)?;
            observer.layer(layer, &report);
            reports.push(report);
            pass.marks.start.record(parts.stream)?;
        }
        let column_mass = pass.attention.column_mass(parts.stream)?;
        let TokensPass { host_logits: logits, rows, hidden_states, .. } = pass;
        if let Some(i) = logits.iter().position(|x| !x.is_finite()) {
            return Err(Error::not_finite("the logits", past + rows[i / config.vocab_size], T::DTYPE));
        }
        if reads.caches() {
            self.positions.commit(&position_ids);
        }
        let report = ForwardReport { tokens: len, layers: reports, total: start.elapsed() };
        Ok(PassOutput { logits, report, column_mass, hidden_states })
    }
}
