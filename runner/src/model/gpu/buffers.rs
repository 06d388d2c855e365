//! Device memory of a pass.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream};
use lacuna::{DeviceError, Element, Layout, Result};

use super::gather::Gather;
use super::operations::Slice;
use crate::error::allocate;
use crate::model::Config;

/// Tokens that go through the projections and the MLP at a time, at most: from here on the products are as fast as they get,
/// and the wide activations of the MLP stay small beside the KV cache.
pub(super) const MAX_SLICE: usize = 4096;
/// At least, where memory is short.
const MIN_SLICE: usize = 128;

/// What a pass keeps of each of its tokens.
pub(super) struct Tokens<T> {
    /// The residual stream, `[tokens, hidden]`.
    pub x: DeviceBuffer<T>,
    /// `[tokens, heads, head_dim]`
    pub q: DeviceBuffer<T>,
    /// As `q`.
    pub attention: DeviceBuffer<T>,
    /// One number: the first token of which something is not finite, or [`u32::MAX`].
    pub not_finite: DeviceBuffer<u32>,
    len: usize,
    /// Heads, head dim.
    head_shape: [usize; 2],
}

/// What is kept of the rows whose logits are asked for, from the last layer's attention on.
pub(super) struct Kept<T> {
    rows: DeviceBuffer<u32>,
    x: DeviceBuffer<T>,
    attention: DeviceBuffer<T>,
    gather_x: Gather<T>,
    gather_attention: Gather<T>,
}

/// Activations of a slice of tokens.
pub(super) struct Activations<T> {
    /// Normed input of a projection, `[slice, hidden]`.
    pub normed: DeviceBuffer<T>,
    /// `[slice, q_size + 2 kv_size]`
    pub qkv: DeviceBuffer<T>,
    /// `[slice, 2 intermediate]`
    pub gate_up: DeviceBuffer<T>,
    /// `[slice, intermediate]`
    pub gated: DeviceBuffer<T>,
    /// Output of a branch, to be added to the residual stream, `[slice, hidden]`.
    pub branch: DeviceBuffer<T>,
    slice: usize,
}

impl<T: Element + Pod> Tokens<T> {
    /// Room for `len` tokens.
    pub fn new(context: &Context, config: &Config, len: usize) -> Result<Self> {
        let list = |size: usize| DeviceBuffer::uninit(context, len.saturating_mul(size), "activations");
        Ok(Self {
            x: list(config.hidden_size)?,
            q: list(config.q_size())?,
            attention: list(config.q_size())?,
            not_finite: DeviceBuffer::from_host(context, &[u32::MAX], "activations")?,
            len,
            head_shape: [config.num_attention_heads, config.head_dim],
        })
    }

    /// Tokens of the pass.
    pub fn len(&self) -> usize {
        self.len
    }

    fn layout(&self, len: usize) -> Layout {
        let [heads, head_dim] = self.head_shape;
        Layout::thd(len, heads, head_dim)
    }

    /// The queries of a slice, for writing.
    pub fn q_mut(&mut self, slice: Slice) -> Result<DeviceViewMut<'_, T>> {
        let first = slice.start * self.head_shape.iter().product::<usize>();
        let layout = self.layout(slice.len);
        DeviceViewMut::new(&mut self.q, first, layout)
    }

    /// All queries, and the outputs of their attention for writing.
    pub fn attention_mut(&mut self) -> Result<(DeviceView<'_, T>, DeviceViewMut<'_, T>)> {
        let layout = self.layout(self.len);
        Ok((DeviceView::new(&self.q, 0, layout)?, DeviceViewMut::new(&mut self.attention, 0, layout)?))
    }

    /// Waits for what is queued, and gives the first token of which something is not finite.
    pub fn first_not_finite(&self, stream: &Stream) -> Result<Option<usize>> {
        let mut token = [0];
        self.not_finite.copy_to_host(stream, 0, &mut token)?;
        Ok(Some(token[0] as usize).filter(|_| token[0] != u32::MAX))
    }

    /// Drops all tokens but those of `kept`, in that order: after the last layer's attention nothing else is needed.
    pub fn keep(&mut self, stream: &Stream, kept: &mut Kept<T>) -> Result<()> {
        let Kept { rows, x, attention, gather_x, gather_attention } = kept;
        gather_x.run(stream, &self.x, rows, x)?;
        gather_attention.run(stream, &self.attention, rows, attention)?;
        std::mem::swap(&mut self.x, x);
        std::mem::swap(&mut self.attention, attention);
        self.len = rows.len();
        Ok(())
    }
}

impl<T: Element + Pod> Kept<T> {
    /// Room for `rows`, counted within a pass of `len` tokens.
    pub fn new(context: &Context, config: &Config, len: usize, rows: &[usize]) -> Result<Self> {
        let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let list =
            |size: usize| DeviceBuffer::uninit(context, rows.len().saturating_mul(size), "activations");
        Ok(Self {
            rows: DeviceBuffer::from_host(context, &ids, "activations")?,
            x: list(config.hidden_size)?,
            attention: list(config.q_size())?,
            gather_x: Gather::new(context, len, config.hidden_size, rows.len())?,
            gather_attention: Gather::new(context, len, config.q_size(), rows.len())?,
        })
    }
}

/// The first `len` elements of a buffer, once all that is queued before is done.
pub(super) fn download<T: Element + Pod>(
    buffer: &DeviceBuffer<T>,
    stream: &Stream,
    len: usize,
) -> crate::Result<Vec<f32>> {
    const WHAT: &str = "copies of activations";
    let mut host: Vec<T> = allocate(WHAT, len)?;
    buffer.copy_to_host(stream, 0, &mut host)?;
    let mut out = allocate(WHAT, len)?;
    out.iter_mut().zip(&host).for_each(|(out, x)| *out = x.to_f32());
    Ok(out)
}

/// What the memory of [`Activations`] is for, in the driver's books.
pub(crate) const SLICE: &str = "activations of a slice";

/// Bytes of [`Activations`] for each token of a slice.
pub(crate) fn slice_token_bytes<T>(config: &Config) -> u64 {
    let Config { hidden_size, intermediate_size, .. } = *config;
    let elements = 2 * hidden_size + config.q_size() + 2 * config.kv_size() + 3 * intermediate_size;
    (elements * size_of::<T>()) as u64
}

/// The smallest slice of a pass of `tokens` tokens.
pub(crate) fn smallest_slice(tokens: usize) -> usize {
    tokens.min(MIN_SLICE)
}

impl<T: Element + Pod> Activations<T> {
    /// For slices of `slice` tokens.
    pub fn new(context: &Context, config: &Config, slice: usize) -> Result<Self> {
        let list = |size: usize| DeviceBuffer::uninit(context, slice.saturating_mul(size), SLICE);
        Ok(Self {
            normed: list(config.hidden_size)?,
            qkv: list(config.q_size() + 2 * config.kv_size())?,
            gate_up: list(2 * config.intermediate_size)?,
            gated: list(config.intermediate_size)?,
            branch: list(config.hidden_size)?,
            slice,
        })
    }

    /// For passes of `tokens` tokens, in the largest slices for which there is memory.
    pub fn fitting(context: &Context, config: &Config, tokens: usize) -> Result<Self> {
        let mut slice = tokens.min(MAX_SLICE);
        loop {
            match Self::new(context, config, slice) {
                Err(lacuna::Error::Device(DeviceError::OutOfMemory { .. })) if slice > MIN_SLICE => {
                    slice = (slice / 2).max(MIN_SLICE);
                }
                done => return done,
            }
        }
    }

    /// `rows` rows, in slices of at most `limit`.
    pub fn slices(&self, rows: usize, limit: usize) -> impl Iterator<Item = Slice> + use<T> {
        let slice = self.slice.min(limit);
        (0..rows).step_by(slice).map(move |start| Slice { start, len: slice.min(rows - start) })
    }
}
