//! The pattern search of XAttention (Xu et al. 2025, arXiv 2503.16428).

use lacuna_core::{AttentionShape, Element, Result, XAttentionOptions};

use crate::antidiagonal_score;
use crate::block_mask::{self, Bitmask, DeviceBlockMask};
use crate::block_select;
use crate::buffer::DeviceBuffer;
use crate::check::Arg;
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "x_attention";

/// The search for one shape: block scores ([`antidiagonal_score::Plan`]), the blocks that cover the threshold
/// ([`block_select::Plan`]), and their lists ([`block_mask::Plan`]). Run any number of times.
///
/// A run is [`Plan::LAUNCHES`] launches, without a copy or a wait; the lists go to the [`DeviceBlockMask`] that
/// [`block_sparse_attention`](crate::block_sparse_attention) takes. What is chosen, and by which options, the parts say; on
/// a device strides are 4, 8 or 16, blocks of 64 or 128 tokens, head dims 64 or 128, types bf16 or f16.
///
/// # Memory
/// Scores lie in the mask's own memory until the lists are written there. [`Plan::workspace_bytes`] is that of the scores'
/// plan, and a bit per block.
#[derive(Debug)]
pub struct Plan<T> {
    context: Context,
    shape: AttentionShape,
    options: XAttentionOptions,
    causal: bool,
    score: antidiagonal_score::Plan<T>,
    select: block_select::Plan,
    bitmask: Bitmask,
}

impl<T: Element> Plan<T> {
    /// Launches of a run.
    pub const LAUNCHES: usize = 2 + block_mask::Plan::LAUNCHES;

    /// Plans searches of `shape`, allocates their workspace, and uploads the tables and the thresholds.
    ///
    /// # Errors
    /// As [`antidiagonal_score::Plan::new`] and [`block_select::Plan::new`].
    pub fn new(
        context: &Context,
        shape: &AttentionShape,
        options: &XAttentionOptions,
        causal: bool,
    ) -> Result<Self> {
        let score = antidiagonal_score::Plan::new(context, shape, options, causal)?;
        let select = block_select::Plan::new(context, shape, options, causal)?;
        Ok(Self {
            bitmask: Bitmask::new(context, score.search())?,
            score,
            select,
            context: context.clone(),
            shape: shape.clone(),
            options: options.clone(),
            causal,
        })
    }

    /// A mask with room for what a run may keep: the blocks that some query sees, or, where the past is counted in padded
    /// lengths, all.
    ///
    /// # Errors
    /// As [`DeviceBlockMask::for_search`].
    pub fn empty_mask(&self) -> Result<DeviceBlockMask> {
        let packed_causal = block_select::Plan::packed_causal(&self.options, self.causal);
        DeviceBlockMask::for_search(&self.context, &self.shape, self.options.block_size, packed_causal)
    }

    /// The most blocks that a search of this shape can keep.
    pub fn max_blocks(&self) -> usize {
        self.score.search().blocks
    }

    /// Bytes of device memory that the plan allocates for its workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.score.workspace_bytes() + self.bitmask.bytes()
    }

    /// Queues the search of `q`, `[total_q, num_heads, head_dim]`, against `k`, `[total_k, num_heads_k, head_dim]`, and the
    /// lists of the blocks that it keeps. Addresses and strides are multiples of 16 bytes. `block_mask` is one made by
    /// [`Plan::empty_mask`], or with as much room.
    ///
    /// The plan owns the workspace: two runs of one plan have to be on one stream, or ordered by events.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](lacuna_core::Error::ShapeMismatch) where a tensor or the mask does not fit the plan,
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for one that is not aligned or lies on another
    /// device.
    pub fn run(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        block_mask: &mut DeviceBlockMask,
    ) -> Result<()> {
        self.run_checked(stream, q, k, DevicePtr::NULL, block_mask)
    }

    /// As [`Plan::run`], with `thresholds` in the place of the options': one per query head, from 0 to 1, as each layer of a
    /// model may have its own.
    ///
    /// # Errors
    /// As [`Plan::run`], and [`Error::ShapeMismatch`](lacuna_core::Error::ShapeMismatch) for another number of thresholds.
    pub fn run_with_thresholds(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        thresholds: &DeviceBuffer<f32>,
        block_mask: &mut DeviceBlockMask,
    ) -> Result<()> {
        let arg = Arg { op: OP, name: "thresholds" };
        let thresholds = arg.list(&self.context, Some(thresholds), [self.shape.num_heads])?;
        self.run_checked(stream, q, k, thresholds, block_mask)
    }

    /// As [`Plan::run`], on addresses and a stream of any owner; `thresholds` may be null. Alignment is checked.
    ///
    /// # Safety
    /// The tensors hold the plan's shape, `thresholds`, unless null, an `f32` per query head. `indptr` has room for a `u32` per
    /// row of the mask (sequence, then query head, then query block) and one more, and `indices` for
    /// [`Plan::max_blocks`] of them, both at multiples of 4 bytes. All live in memory of the plan's device, and nothing else
    /// writes them, or reads the mask, until the work is done. No other work that uses the plan's workspace runs
    /// meanwhile. `stream` is a live stream of the device.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        thresholds: DevicePtr,
        indptr: DevicePtr,
        indices: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, q, k, thresholds, indptr, indices) }
    }

    fn run_checked(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        thresholds: DevicePtr,
        block_mask: &mut DeviceBlockMask,
    ) -> Result<()> {
        let context = self.context.clone();
        Arg { op: OP, name: "stream" }.stream(&context, stream)?;
        let (q, k) = self.score.tensors(OP, q, k)?;
        let blocks = [self.options.block_size; 2];
        let this = &*self;
        block_mask.fill(OP, &context, &this.shape, this.score.search(), blocks, |indptr, indices| {
            // SAFETY: the tensors have the plan's shape, the mask room for all blocks, and they lie on its device; buffers
            // live until queued work is done.
            unsafe { this.launch(stream.raw(), q, k, thresholds, indptr, indices) }
        })
    }

    unsafe fn launch(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        thresholds: DevicePtr,
        indptr: DevicePtr,
        indices: DevicePtr,
    ) -> Result<()> {
        // Room for as many scores as blocks: they are gone when the lists are written.
        let scores = indices;
        let (bits, counts) = (self.bitmask.ptr(), self.bitmask.counts());
        // SAFETY: the caller's promise for tensors and mask; the rest is the plan's. All parts have the same rows, and come
        // one after the other on one stream.
        unsafe {
            self.score.launch(OP, stream, q, k, scores)?;
            self.select.run_raw(stream, scores, thresholds, bits, counts)?;
            self.bitmask.list(stream, indptr, indices)
        }
    }
}
