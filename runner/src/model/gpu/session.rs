//! One context of a Llama model on a device: passes, decode, rollback.

use bytemuck::Pod;
use lacuna::Element;
use lacuna::gpu::Stream;

use super::buffers::MAX_SLICE;
use super::decode::Decoder;
use super::kv_cache::KvCache;
use super::llama::Llama;
use super::operations::{Operations, Parts};
use super::rotary_table::RotaryTable;
use crate::Result;
use crate::generate::Sampler;
use crate::model::positions::Positions;
use crate::model::{ForwardOptions, ForwardReport, Observer, PassOptions, PassOutput, Session};

pub(super) struct LlamaSession<'m, T: Element> {
    pub model: &'m Llama<T>,
    pub stream: Stream,
    pub operations: Operations<T>,
    pub positions: Positions,
    pub cache: KvCache<T>,
    pub rotary: RotaryTable,
    pub decoder: Decoder<T>,
}

impl<'m, T: Element + Pod> LlamaSession<'m, T> {
    pub fn new(model: &'m Llama<T>, capacity: usize) -> Result<Self> {
        let Llama { context, config, inv_freq, .. } = model;
        let positions = Positions::new(capacity)?;
        Ok(Self {
            model,
            stream: context.new_stream()?,
            operations: Operations::new(context, model.gemm, config, capacity.min(MAX_SLICE))?,
            positions,
            cache: KvCache::new(context, config, capacity)?,
            rotary: RotaryTable::new(context, inv_freq, capacity)?,
            decoder: Decoder::new(context, config, capacity)?,
        })
    }

    /// What a pass uses of the context, and the decoder.
    pub fn split(&mut self) -> (Parts<'_, T>, &mut Decoder<T>) {
        let Self { model, stream, operations, cache, rotary, decoder, .. } = self;
        (Parts { model, operations, stream, rotary, cache }, decoder)
    }

    /// Sees to it that the rotary table reaches `position`.
    pub fn reach(&mut self, position: u32) -> Result<()> {
        let needed = position as usize + 1;
        if needed > self.rotary.positions() {
            // What is queued or recorded still reads the old one.
            self.decoder.forget();
            self.stream.synchronize()?;
            let positions = needed.next_power_of_two().min(self.model.config.max_position_embeddings);
            self.rotary = RotaryTable::new(&self.model.context, &self.model.inv_freq, positions)?;
        }
        Ok(())
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
        let PassOutput { logits, report, .. } = self.run(tokens, options, observer)?;
        Ok((logits, report))
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.decode_logits(token)
    }

    fn next_token(&mut self, token: u32, sampler: &mut Sampler, seen: &[u32]) -> Result<u32> {
        self.decode_next(token, sampler, seen)
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.positions.truncate(len)?;
        self.decoder.drop_ahead();
        Ok(())
    }

    fn len(&self) -> usize {
        self.positions.len()
    }

    fn capacity(&self) -> usize {
        self.positions.capacity()
    }
}
