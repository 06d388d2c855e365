//! The parts of a forward pass around attention.

use lacuna::Element;
use rayon::prelude::*;

use super::kv_cache::{KvCache, LayerCache};
use super::llama::Llama;
use super::rms_norm::rms_norm;
use super::silu_mul::silu_mul;
use crate::error::allocate;
use crate::model::Config;
use crate::model::rope::RotaryTable;
use crate::{Error, Result};

/// Tokens that go through the projections and the MLP at a time: enough to read each weight from memory once for many
/// tokens, and few enough that the wide activations of the MLP stay small beside the KV cache.
const TOKEN_SLICE: usize = 1024;
/// Tokens that make a task worth a thread where each costs little.
const MIN_TOKENS: usize = 16;

/// Activations of the tokens of a pass, and of a slice of them.
pub(crate) struct Buffers<T> {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<T>,
    /// `[tokens, heads, head_dim]`
    q: Vec<T>,
    /// As `q`.
    attention: Vec<T>,
    /// Normed input of a projection, `[slice, hidden]`.
    normed: Vec<T>,
    /// `[slice, q_size + 2 kv_size]`
    qkv: Vec<f32>,
    /// `[slice, 2 intermediate]`
    gate_up: Vec<f32>,
    /// `[slice, intermediate]`
    gated: Vec<T>,
    /// Output of a branch, to be added to the residual stream, `[slice, hidden]`.
    branch: Vec<f32>,
}

impl<T: Element> Buffers<T> {
    pub fn new(config: &Config, tokens: usize) -> Result<Self> {
        const WHAT: &str = "activations";
        let slice = tokens.min(TOKEN_SLICE);
        Ok(Self {
            x: allocate(WHAT, tokens * config.hidden_size)?,
            q: allocate(WHAT, tokens * config.q_size())?,
            attention: allocate(WHAT, tokens * config.q_size())?,
            normed: allocate(WHAT, slice * config.hidden_size)?,
            qkv: allocate(WHAT, slice * (config.q_size() + 2 * config.kv_size()))?,
            gate_up: allocate(WHAT, slice * 2 * config.intermediate_size)?,
            gated: allocate(WHAT, slice * config.intermediate_size)?,
            branch: allocate(WHAT, slice * config.hidden_size)?,
        })
    }
}

/// One pass of some tokens through the layers. Per layer: [`Pass::project`], attention, [`Pass::finish`].
pub(crate) struct Pass<'a, T: Element> {
    model: &'a Llama<T>,
    /// Tokens cached before.
    past: usize,
    rotary: RotaryTable,
    buffers: &'a mut Buffers<T>,
    /// The tokens that the residual stream still holds.
    rows: Vec<usize>,
    /// Tokens of a slice.
    slice: usize,
}

impl<'a, T: Element> Pass<'a, T> {
    /// Looks up the embeddings. `buffers` is for at least as many tokens.
    pub fn new(
        model: &'a Llama<T>,
        tokens: &[u32],
        position_ids: &[u32],
        past: usize,
        buffers: &'a mut Buffers<T>,
    ) -> Self {
        let hidden = model.config.hidden_size;
        for (x, &token) in buffers.x.chunks_exact_mut(hidden).zip(tokens) {
            x.copy_from_slice(&model.embed_tokens[token as usize * hidden..][..hidden]);
        }
        let rotary = RotaryTable::new(&model.inv_freq, position_ids);
        let slice = tokens.len().min(TOKEN_SLICE);
        Self { model, past, rotary, buffers, rows: (0..tokens.len()).collect(), slice }
    }

    /// Norm, q, k and v projections and rotary embedding: q into the buffers, k and v into the cache.
    pub fn project(&mut self, layer: usize, cache: &mut KvCache<T>) -> Result<()> {
        let config = &self.model.config;
        let weights = &self.model.layers[layer];
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let capacity = cache.capacity();
        let Buffers { x, q, normed, qkv, .. } = &mut *self.buffers;
        let rotary = &self.rotary;
        for start in (0..self.rows.len()).step_by(self.slice) {
            let len = self.slice.min(self.rows.len() - start);
            let x = &x[start * hidden..][..len * hidden];
            let normed = &mut normed[..len * hidden];
            let qkv = &mut qkv[..len * (q_size + 2 * kv_size)];
            rms_norm(x, &weights.input_layernorm, config.rms_norm_eps as f32, normed);
            weights.qkv_proj.forward(normed, qkv)?;

            q[start * q_size..][..len * q_size]
                .par_chunks_exact_mut(q_size)
                .with_min_len(MIN_TOKENS)
                .zip(qkv.par_chunks_exact(q_size + 2 * kv_size))
                .enumerate()
                .for_each(|(i, (q, qkv))| {
                    for (q, x) in q.chunks_exact_mut(head_dim).zip(qkv.chunks_exact(head_dim)) {
                        rotary.rotate(start + i, x, q);
                    }
                });
            // The cache holds the tokens of a head together, so its heads are what threads can share out.
            let first = (self.past + start) * head_dim;
            let LayerCache { k, v } = cache.layer_mut(layer);
            let heads =
                k.par_chunks_exact_mut(capacity * head_dim).zip(v.par_chunks_exact_mut(capacity * head_dim));
            heads.enumerate().for_each(|(head, (k, v))| {
                let k = k[first..].chunks_exact_mut(head_dim);
                let v = v[first..].chunks_exact_mut(head_dim);
                for (i, ((k, v), qkv)) in k.zip(v).zip(qkv.chunks_exact(q_size + 2 * kv_size)).enumerate() {
                    rotary.rotate(start + i, &qkv[q_size + head * head_dim..][..head_dim], k);
                    let x = &qkv[q_size + kv_size + head * head_dim..][..head_dim];
                    v.iter_mut().zip(x).for_each(|(v, &x)| *v = T::from_f32(x));
                }
            });
        }
        Ok(())
    }

    /// Attention's input and output, `[tokens, heads, head_dim]` each.
    pub fn attention_buffers(&mut self) -> (&[T], &mut [T]) {
        let len = self.rows.len() * self.model.config.q_size();
        (&self.buffers.q[..len], &mut self.buffers.attention[..len])
    }

    /// The residual stream of all tokens, `[tokens, hidden]`; after the last layer as the output matrix reads it.
    pub fn hidden_state(&mut self, after_last_layer: bool) -> Result<Vec<f32>> {
        let config = &self.model.config;
        let hidden = config.hidden_size;
        let mut state = allocate("hidden states", self.rows.len() * hidden)?;
        let Buffers { x, normed, .. } = &mut *self.buffers;
        for start in (0..self.rows.len()).step_by(self.slice) {
            let len = self.slice.min(self.rows.len() - start);
            let mut x = &x[start * hidden..][..len * hidden];
            if after_last_layer {
                let normed = &mut normed[..len * hidden];
                rms_norm(x, &self.model.norm, config.rms_norm_eps as f32, normed);
                x = normed;
            }
            state[start * hidden..].iter_mut().zip(x).for_each(|(state, x)| *state = x.to_f32());
        }
        Ok(state)
    }

    /// Drops all tokens but `rows`, in that order: before the last layer's [`Pass::finish`] nothing else is needed.
    pub fn keep_rows(&mut self, rows: &[usize]) {
        let gather = |data: &mut Vec<T>, size: usize| {
            *data = rows.iter().flat_map(|row| &data[row * size..][..size]).copied().collect();
        };
        gather(&mut self.buffers.x, self.model.config.hidden_size);
        gather(&mut self.buffers.attention, self.model.config.q_size());
        self.rows = rows.to_vec();
    }

    /// The output projection and the MLP, added to the residual stream.
    pub fn finish(&mut self, layer: usize) -> Result<()> {
        let config = &self.model.config;
        let weights = &self.model.layers[layer];
        let (hidden, q_size, intermediate) = (config.hidden_size, config.q_size(), config.intermediate_size);
        let Buffers { x, attention, normed, gate_up, gated, branch, .. } = &mut *self.buffers;
        for start in (0..self.rows.len()).step_by(self.slice) {
            let len = self.slice.min(self.rows.len() - start);
            let x = &mut x[start * hidden..][..len * hidden];
            let normed = &mut normed[..len * hidden];
            let gate_up = &mut gate_up[..len * 2 * intermediate];
            let gated = &mut gated[..len * intermediate];
            let branch = &mut branch[..len * hidden];
            weights.o_proj.forward(&attention[start * q_size..][..len * q_size], branch)?;
            add(x, branch);
            rms_norm(x, &weights.post_attention_layernorm, config.rms_norm_eps as f32, normed);
            weights.gate_up_proj.forward(normed, gate_up)?;
            silu_mul(gate_up, intermediate, gated);
            weights.down_proj.forward(gated, branch)?;
            add(x, branch);
            if let Some(row) = first_not_finite(x, hidden) {
                let token = self.past + self.rows[start + row];
                let what = format_args!("the activations after layer {layer}");
                return Err(Error::not_finite(what, token, T::DTYPE));
            }
        }
        Ok(())
    }

    /// The logits `[rows, vocab_size]` of the tokens kept.
    pub fn logits(&mut self, logits: &mut [f32]) -> Result<()> {
        let config = &self.model.config;
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let Buffers { x, normed, .. } = &mut *self.buffers;
        for start in (0..self.rows.len()).step_by(self.slice) {
            let len = self.slice.min(self.rows.len() - start);
            let normed = &mut normed[..len * hidden];
            let logits = &mut logits[start * vocab..][..len * vocab];
            let x = &x[start * hidden..][..len * hidden];
            rms_norm(x, &self.model.norm, config.rms_norm_eps as f32, normed);
            self.model.lm_head.forward(normed, logits)?;
            if let Some(row) = first_not_finite(logits, vocab) {
                return Err(Error::not_finite("the logits", self.past + self.rows[start + row], T::DTYPE));
            }
        }
        Ok(())
    }
}

/// `x += branch`, rounded once.
fn add<T: Element>(x: &mut [T], branch: &[f32]) {
    const CHUNK: usize = 1 << 14;
    x.par_chunks_mut(CHUNK).zip(branch.par_chunks(CHUNK)).for_each(|(x, branch)| {
        x.iter_mut().zip(branch).for_each(|(x, b)| *x = T::from_f32(x.to_f32() + b));
    });
}

/// The first row with a NaN or an infinity.
fn first_not_finite<T: Element>(x: &[T], row_len: usize) -> Option<usize> {
    // Without an early exit, so that it vectorises.
    let bad = |row: &[T]| row.iter().fold(false, |bad, x| bad | !x.to_f32().is_finite());
    x.par_chunks_exact(row_len).with_min_len(MIN_TOKENS).position_first(bad)
}
