//! The operations around attention, planned for a model, and the two halves of a layer that they make up.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream, gemm, rms_norm, rope, silu_mul};
use lacuna::{Element, Layout, Result};

use super::buffers::{Activations, Tokens};
use super::kv_cache::KvCache;
use super::llama::{Linear, Llama};
use super::rotary_table::RotaryTable;
use crate::model::Config;

/// The plans of one context's operations, each for any number of rows up to a largest. They own workspaces: all of them run
/// on the context's one stream.
pub(super) struct Operations<T: Element> {
    rms_norm: rms_norm::Plan<T>,
    rope: rope::Plan<T>,
    silu_mul: silu_mul::Plan<T>,
    qkv_proj: gemm::Plan<T>,
    o_proj: gemm::Plan<T>,
    gate_up_proj: gemm::Plan<T>,
    down_proj: gemm::Plan<T>,
    lm_head: gemm::Plan<T, f32>,
}

/// Rows of a pass that go through an operation together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    /// The first, counted within the pass.
    pub start: usize,
    pub len: usize,
}

/// What a pass uses of its context.
pub(super) struct Parts<'a, T: Element> {
    pub model: &'a Llama<T>,
    pub operations: &'a Operations<T>,
    pub stream: &'a Stream,
    pub rotary: &'a RotaryTable,
    pub cache: &'a mut KvCache<T>,
}

/// What a half of a layer reads and writes.
pub(super) struct Pass<'p, 'a, T: Element> {
    pub parts: &'p mut Parts<'a, T>,
    pub tokens: &'p mut Tokens<T>,
    pub activations: &'p mut Activations<T>,
}

/// Where the tokens of a pass stand, and where their keys and values go.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Positions by token of the pass; the cache holds `past` tokens before.
    Host { position_ids: &'a DeviceBuffer<u32>, past: usize },
    /// One token: its position is the first element, its place in the cache the second.
    OnDevice(&'a DeviceBuffer<u32>),
}

impl<T: Element + Pod> Operations<T> {
    /// Plans passes of slices of up to `max_rows` tokens.
    pub fn new(context: &Context, backend: gemm::Backend, config: &Config, max_rows: usize) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_size(), config.kv_size());
        let gemm = |out_features, in_features| {
            gemm::Plan::new(context, max_rows, out_features, in_features, backend)
        };
        let shape = rope::Shape {
            num_heads: config.num_attention_heads,
            num_heads_k: config.num_key_value_heads,
            head_dim: config.head_dim,
            rotary_dim: config.head_dim,
            pairing: rope::Pairing::HalfSplit,
        };
        Ok(Self {
            rms_norm: rms_norm::Plan::new(context, hidden, config.rms_norm_eps as f32)?,
            rope: rope::Plan::new(context, &shape)?,
            silu_mul: silu_mul::Plan::new(context, intermediate)?,
            qkv_proj: gemm(q + 2 * kv, hidden)?,
            o_proj: gemm(hidden, q)?,
            gate_up_proj: gemm(2 * intermediate, hidden)?,
            down_proj: gemm(hidden, intermediate)?,
            lm_head: gemm::Plan::new(context, max_rows, config.vocab_size, hidden, backend)?,
        })
    }

    /// What multiplies matrices.
    pub fn gemm_backend(&self) -> gemm::Backend {
        self.qkv_proj.backend()
    }

    /// The norm of a slice of the residual stream, to which the output of the last branch may be added first.
    fn norm(
        &self,
        stream: &Stream,
        tokens: &mut Tokens<T>,
        activations: &mut Activations<T>,
        slice: Slice,
        weight: &DeviceBuffer<T>,
        after_branch: bool,
    ) -> Result<()> {
        let Slice { start, len } = slice;
        let hidden = weight.len();
        let Activations { normed, branch, .. } = activations;
        let mut normed = matrix_mut(normed, 0, len, hidden)?;
        let not_finite = Some(&mut tokens.not_finite);
        if after_branch {
            let mut x = matrix_mut(&mut tokens.x, start, len, hidden)?;
            let branch = matrix(branch, 0, len, hidden)?;
            self.rms_norm.run_add(stream, &mut x, &branch, weight, &mut normed, start as u32, not_finite)
        } else {
            let x = matrix(&tokens.x, start, len, hidden)?;
            self.rms_norm.run(stream, &x, weight, &mut normed, start as u32, not_finite)
        }
    }
}

impl<'a, T: Element> Parts<'a, T> {
    /// A pass of `tokens`, a slice at a time in `activations`.
    pub fn pass<'p>(
        &'p mut self,
        tokens: &'p mut Tokens<T>,
        activations: &'p mut Activations<T>,
    ) -> Pass<'p, 'a, T> {
        Pass { parts: self, tokens, activations }
    }
}

impl<T: Element + Pod> Pass<'_, '_, T> {
    /// The half of a layer before its attention: norm, q, k and v projections and rotary embedding, q into the tokens'
    /// memory, k and v into the cache. With `after_branch` the output of the branch before is added to the residual stream
    /// first.
    pub fn before_attention(
        &mut self,
        layer: usize,
        slice: Slice,
        after_branch: bool,
        place: Place,
    ) -> Result<()> {
        let Self { parts: Parts { model, operations, stream, rotary, cache }, tokens, activations } = self;
        let weights = &model.layers[layer];
        operations.norm(stream, tokens, activations, slice, &weights.input_layernorm, after_branch)?;
        let Activations { normed, qkv, .. } = &mut **activations;
        linear(&operations.qkv_proj, stream, normed, &weights.qkv_proj, qkv, slice.len)?;
        let qkv = matrix(qkv, 0, slice.len, weights.qkv_proj.out_features)?;
        let (mut k, mut v) = cache.views_mut(layer)?;
        let mut q = tokens.q_mut(slice)?;
        let (position_ids, first_position, slot) = match place {
            Place::Host { position_ids, past } => {
                (position_ids, slice.start, rope::Slot::At(past + slice.start))
            }
            Place::OnDevice(place) => (place, 0, rope::Slot::OnDevice(place, 1)),
        };
        let cos_sin = rotary.view()?;
        operations.rope.run(
            stream,
            &qkv,
            position_ids,
            first_position,
            &cos_sin,
            &mut q,
            &mut k,
            &mut v,
            slot,
        )
    }

    /// The half of a layer after its attention: output projection, residual addition and norm, MLP. Its output waits in the
    /// activations to be added by what comes next.
    pub fn after_attention(&mut self, layer: usize, slice: Slice) -> Result<()> {
        let Self { parts: Parts { model, operations, stream, .. }, tokens, activations } = self;
        let weights = &model.layers[layer];
        let Config { hidden_size, intermediate_size, .. } = model.config;
        operations.o_proj.run(
            stream,
            &matrix(&tokens.attention, slice.start, slice.len, weights.o_proj.in_features)?,
            &weights.o_proj.weight()?,
            weights.o_proj.bias()?.as_ref(),
            &mut matrix_mut(&mut activations.branch, 0, slice.len, hidden_size)?,
        )?;
        operations.norm(stream, tokens, activations, slice, &weights.post_attention_layernorm, true)?;
        let Activations { normed, gate_up, gated, branch, .. } = &mut **activations;
        linear(&operations.gate_up_proj, stream, normed, &weights.gate_up_proj, gate_up, slice.len)?;
        operations.silu_mul.run(
            stream,
            &matrix(gate_up, 0, slice.len, 2 * intermediate_size)?,
            &mut matrix_mut(gated, 0, slice.len, intermediate_size)?,
        )?;
        linear(&operations.down_proj, stream, gated, &weights.down_proj, branch, slice.len)
    }

    /// The norm before the output matrix, with `after_branch` after the output of the last branch is added.
    pub fn final_norm(&mut self, slice: Slice, after_branch: bool) -> Result<()> {
        let Self { parts: Parts { model, operations, stream, .. }, tokens, activations } = self;
        operations.norm(stream, tokens, activations, slice, &model.norm, after_branch)
    }

    /// The logits `[slice, vocab_size]`, from the slice that was normed last.
    pub fn logits(&mut self, slice: Slice, logits: &mut DeviceBuffer<f32>) -> Result<()> {
        let Self { parts: Parts { model, operations, stream, .. }, activations, .. } = self;
        let Config { hidden_size, vocab_size, .. } = model.config;
        operations.lm_head.run(
            stream,
            &matrix(&activations.normed, 0, slice.len, hidden_size)?,
            &model.lm_head()?,
            None,
            &mut matrix_mut(logits, 0, slice.len, vocab_size)?,
        )
    }
}

/// The first `rows` rows of `x` through a linear layer.
fn linear<T: Element + Pod>(
    plan: &gemm::Plan<T>,
    stream: &Stream,
    x: &DeviceBuffer<T>,
    layer: &Linear<T>,
    out: &mut DeviceBuffer<T>,
    rows: usize,
) -> Result<()> {
    plan.run(
        stream,
        &matrix(x, 0, rows, layer.in_features)?,
        &layer.weight()?,
        layer.bias()?.as_ref(),
        &mut matrix_mut(out, 0, rows, layer.out_features)?,
    )
}

/// `rows` rows of `columns` elements, from row `first` on.
pub(super) fn matrix<T: Element + Pod>(
    buffer: &DeviceBuffer<T>,
    first: usize,
    rows: usize,
    columns: usize,
) -> Result<DeviceView<'_, T>> {
    DeviceView::new(buffer, first * columns, Layout::thd(rows, 1, columns))
}

/// As [`matrix`], for writing.
pub(super) fn matrix_mut<T: Element + Pod>(
    buffer: &mut DeviceBuffer<T>,
    first: usize,
    rows: usize,
    columns: usize,
) -> Result<DeviceViewMut<'_, T>> {
    DeviceViewMut::new(buffer, first * columns, Layout::thd(rows, 1, columns))
}
