//! A pass of one token: recorded once, replayed for every token.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DevicePtr, Graph, argmax, decode_attention, sample};
use lacuna::{AttentionOptions, DecodeShape, Element};

use super::buffers::{Activations, Tokens};
use super::gather::Gather;
use super::operations::{Parts, Place, Slice, matrix};
use super::session::LlamaSession;
use crate::error::allocate;
use crate::generate::{Sampler, SamplingOptions};
use crate::model::Config;
use crate::{Error, Result};

/// The one token of a pass.
const TOKEN: Slice = Slice { start: 0, len: 1 };

/// The memory and the plans of a step, and its recording.
///
/// A step reads the token from the device and leaves there the one that it chooses, with the next position and place: the
/// next step can be queued before the host has seen its token.
pub(super) struct Decoder<T: Element> {
    pub attention: decode_attention::Plan<T>,
    embed: Gather<T>,
    tokens: Tokens<T>,
    activations: Activations<T>,
    logits: DeviceBuffer<f32>,
    host_logits: Vec<f32>,
    /// The token to run, then the one that follows it.
    token: DeviceBuffer<u32>,
    /// Its position, its place in the cache, and the number of tokens in the cache with it.
    place: DeviceBuffer<u32>,
    k_start: DeviceBuffer<u32>,
    choice: Choice,
    graph: Option<Graph>,
    /// Whether a step has run, so that all kernels are loaded and all plans know their sizes.
    warm: bool,
    /// The token of a step that is queued or done, but of which the session knows nothing yet.
    ahead: Option<u32>,
}

/// How a step chooses the next token.
enum Choice {
    Likeliest(argmax::Plan),
    Random(Box<Random>),
}

struct Random {
    options: SamplingOptions,
    plan: sample::Plan,
    /// The next number of the sampler's stream.
    uniform: DeviceBuffer<f32>,
}

impl<T: Element + Pod> Decoder<T> {
    pub fn new(context: &Context, config: &Config, capacity: usize) -> Result<Self> {
        let shape = DecodeShape {
            batch: 1,
            max_seqlen_q: 1,
            num_heads: config.num_attention_heads,
            num_heads_k: config.num_key_value_heads,
            head_dim: config.head_dim,
            max_seqlen_k: capacity,
        };
        Ok(Self {
            attention: decode_attention::Plan::new(context, &shape, &AttentionOptions::default())?,
            embed: Gather::new(context, config.vocab_size, config.hidden_size, 1)?,
            tokens: Tokens::new(context, config, 1)?,
            activations: Activations::new(context, config, 1)?,
            logits: DeviceBuffer::uninit(context, config.vocab_size, "logits")?,
            host_logits: allocate("logits", config.vocab_size)?,
            token: DeviceBuffer::uninit(context, 1, "the next token")?,
            place: DeviceBuffer::uninit(context, 3, "the next token's place")?,
            k_start: DeviceBuffer::from_host(context, &[0], "the start of the cache")?,
            choice: Choice::Likeliest(argmax::Plan::new(context, config.vocab_size)?),
            graph: None,
            warm: false,
            ahead: None,
        })
    }

    /// Forgets the recording, because memory it reads is about to go.
    pub fn forget(&mut self) {
        self.graph = None;
        self.ahead = None;
    }

    /// Forgets the step that was queued before its token was known to be wanted.
    pub fn drop_ahead(&mut self) {
        self.ahead = None;
    }
}

impl Choice {
    /// Whether this is how `options` choose.
    fn is_of(&self, options: &SamplingOptions) -> bool {
        match self {
            Self::Likeliest(_) => options.temperature == 0.0,
            Self::Random(random) => random.options == *options,
        }
    }

    fn new(context: &Context, vocab_size: usize, options: &SamplingOptions) -> Result<Self> {
        if options.temperature == 0.0 {
            return Ok(Self::Likeliest(argmax::Plan::new(context, vocab_size)?));
        }
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = *options;
        let on_device = sample::Options { temperature, top_k, top_p, min_p };
        Ok(Self::Random(Box::new(Random {
            options: options.clone(),
            plan: sample::Plan::new(context, vocab_size, &on_device)?,
            uniform: DeviceBuffer::uninit(context, 1, "a random number")?,
        })))
    }
}

impl<T: Element + Pod> LlamaSession<'_, T> {
    /// [`crate::model::Session::decode`].
    pub(super) fn decode_logits(&mut self, token: u32) -> Result<&[f32]> {
        let position_ids = self.begin(token)?;
        let Decoder { logits, host_logits, ahead, .. } = &mut self.decoder;
        *ahead = None;
        logits.copy_to_host(&self.stream, 0, host_logits)?;
        if host_logits.iter().any(|x| !x.is_finite()) {
            return Err(Error::not_finite("the logits", self.positions.len(), T::DTYPE));
        }
        self.positions.commit(&position_ids);
        Ok(&self.decoder.host_logits)
    }

    /// [`crate::model::Session::next_token`]. While the host looks at the token that comes back, the device is at the next one.
    pub(super) fn decode_next(&mut self, token: u32, sampler: &mut Sampler, seen: &[u32]) -> Result<u32> {
        if sampler.penalises() {
            // What was seen is the host's to know.
            return sampler.sample(self.decode_logits(token)?, seen);
        }
        self.choose_by(sampler.options())?;
        if self.decoder.ahead != Some(token) {
            self.draw(sampler)?;
        }
        let position_ids = self.begin(token)?;
        let mut next = [0];
        self.decoder.token.copy_to_host(&self.stream, 0, &mut next)?;
        self.decoder.ahead = None;
        let [next] = next;
        if next == u32::MAX {
            return Err(Error::not_finite("the logits", self.positions.len(), T::DTYPE));
        }
        self.positions.commit(&position_ids);
        // Where there is no room for it, or no angles yet, the next call says so or makes them.
        let next_position = self.positions.of_next(&self.model.config, &[next], None);
        if next_position.is_ok_and(|ids| (ids[0] as usize) < self.rotary.positions()) {
            self.draw(sampler)?;
            self.launch()?;
            self.decoder.ahead = Some(next);
        }
        Ok(next)
    }

    /// Queues the step of `token`, unless that is done already; gives its position.
    fn begin(&mut self, token: u32) -> Result<Vec<u32>> {
        let position_ids = self.positions.of_next(&self.model.config, &[token], None)?;
        if self.decoder.ahead == Some(token) {
            return Ok(position_ids);
        }
        self.decoder.ahead = None;
        self.reach(position_ids[0])?;
        let past = self.positions.len() as u32;
        let Decoder { token: on_device, place, .. } = &mut self.decoder;
        on_device.copy_from_host(&self.stream, &[token])?;
        place.copy_from_host(&self.stream, &[position_ids[0], past, past + 1])?;
        self.launch()?;
        Ok(position_ids)
    }

    /// Sees to it that the steps to come choose as `options` say.
    fn choose_by(&mut self, options: &SamplingOptions) -> Result<()> {
        let Self { model, decoder, stream, .. } = self;
        if !decoder.choice.is_of(options) {
            decoder.forget();
            stream.synchronize()?;
            decoder.choice = Choice::new(&model.context, model.config.vocab_size, options)?;
        }
        Ok(())
    }

    /// Gives the next step its random number, where it needs one.
    fn draw(&mut self, sampler: &mut Sampler) -> Result<()> {
        if let Choice::Random(random) = &mut self.decoder.choice {
            random.uniform.copy_from_host(&self.stream, &[sampler.next_uniform()])?;
        }
        Ok(())
    }

    /// Queues a step: the first as it is, the second is recorded, and from there on the recording runs.
    fn launch(&mut self) -> Result<()> {
        let (mut parts, decoder) = self.split();
        if !decoder.warm {
            decoder.step(&mut parts)?;
            decoder.warm = true;
            return Ok(());
        }
        let stream = parts.stream;
        let graph = match decoder.graph.take() {
            Some(graph) => graph,
            None => Graph::capture(stream, |_| decoder.step(&mut parts))?,
        };
        // SAFETY: the session owns all memory and plans of the recorded step, does nothing else with them on another stream,
        // and drops the recording before it replaces any of them; memory is freed when queued work is done.
        unsafe { graph.launch(stream) }?;
        decoder.graph = Some(graph);
        Ok(())
    }
}

impl<T: Element + Pod> Decoder<T> {
    /// Queues the launches of a step.
    fn step(&mut self, parts: &mut Parts<T>) -> lacuna::Result<()> {
        let Self { attention, embed, tokens, activations, logits, token, place, k_start, choice, .. } = self;
        let Parts { model, stream, .. } = *parts;
        embed.run(stream, &model.embed_tokens, token, &mut tokens.x)?;
        let mut pass = parts.pass(tokens, activations);
        for layer in 0..model.layers.len() {
            pass.before_attention(layer, TOKEN, layer > 0, Place::OnDevice(place))?;
            let (k, v) = pass.parts.cache.views(layer, 0..pass.parts.cache.capacity())?;
            let (q, out) = pass.tokens.attention_mut()?;
            // SAFETY: the tensors have the plan's shape and lie on its device; the cache's length is the last element of
            // `place`, which the session holds within the capacity. All that uses the plan is on this stream.
            unsafe {
                attention.run_raw(
                    stream.raw(),
                    q.raw(),
                    k.raw(),
                    v.raw(),
                    k_start.ptr(),
                    place.ptr().offset(2 * size_of::<u32>()),
                    out.raw(),
                    DevicePtr::NULL,
                )
            }?;
            pass.after_attention(layer, TOKEN)?;
        }
        pass.final_norm(TOKEN, true)?;
        pass.logits(TOKEN, logits)?;
        let logits = matrix(logits, 0, 1, model.config.vocab_size)?;
        match choice {
            Choice::Likeliest(plan) => plan.run(stream, &logits, token, Some(place)),
            Choice::Random(random) => random.plan.run(stream, &logits, &random.uniform, token, Some(place)),
        }
    }
}
