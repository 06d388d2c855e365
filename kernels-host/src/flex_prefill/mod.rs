//! The pattern search of FlexPrefill (Lai et al. 2025, arXiv 2502.20766).

mod tables;
mod workspace;

use std::marker::PhantomData;

use lacuna_core::{AttentionShape, Element, FlexPrefillOptions, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{FlexHead, FlexPrefillParams};
use lacuna_kernels_gpu::tile_size::{FLEX_MAP_ROWS, FLEX_ROWS};

use crate::block_mask::{self, Bitmask, DeviceBlockMask};
use crate::block_pool;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::probe::{self, Probe};
use crate::search::{SearchCall, SearchLayout};
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};
use tables::Sequences;
use workspace::Workspace;

const OP: &str = "flex_prefill";

/// What was decided for one (sequence, query head).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HeadReport {
    /// Every causal block is kept, without a search; the other fields are then 0.
    pub dense: bool,
    /// The head keeps query-aware blocks.
    pub query_aware: bool,
    /// Root of the Jensen-Shannon divergence between pooled and true block attention of the probe. NaN with
    /// [`FlexPrefillCompat::jsd_weighted`](lacuna_core::FlexPrefillCompat) where a weight is 0, and where a query or key
    /// that was read is not finite.
    pub sqrt_jsd: f32,
    /// Block columns kept, the forced one among them.
    pub vertical_blocks: usize,
    /// Block diagonals kept, the forced one among them.
    pub slash_blocks: usize,
}

/// The search for one shape, causal; every (sequence, query head) decides alone, on the device. Run any number of times.
///
/// `lacuna-reference` states the rule in full, [`FlexPrefillOptions`] its parameters, all of which hold here. `T` is `bf16`
/// or `f16`, the head dim 64 or 128, the block size 64 or 128.
///
/// A run is [`Plan::launches`] launches, at most [`Plan::MAX_LAUNCHES`], without a copy or a wait: probe (two), mean keys,
/// coverage, decision, map and cut of query-aware heads (with `tau > 0`), rows, and lists (two). The lists go to the
/// [`DeviceBlockMask`] that [`block_sparse_attention`](crate::block_sparse_attention) takes; nothing comes back to the
/// host, unless [`Plan::reports`] is asked.
///
/// # Numerics
/// Logits and probabilities are `f32`. What is compared with `gamma` is added in fixed point, exactly; the other sums have an
/// order that depends on the lengths of a sequence alone: its blocks do not depend on the batch around it. `D^2` is
/// computed within about 1e-7 from the probe's sums and the pooled logits. With `jsd_weighted`, a block whose weights are all
/// below 2^-126 counts as one of weight 0.
///
/// Queries of the probe and keys, and all queries of query-aware heads, have to be finite. If they are not, their head
/// reports a divergence of NaN or keeps other blocks; lists are in range and the forced blocks in them for any input.
///
/// # Memory
/// [`Plan::workspace_bytes`]: of the order of heads x keys, and a bit per block. The map of query-aware heads lies in the
/// mask's own memory until the lists are written there.
#[derive(Debug)]
pub struct Plan<T> {
    context: Context,
    shape: AttentionShape,
    block_size: usize,
    call: SearchCall,
    sequences: Sequences,
    params: FlexPrefillParams,
    probe: Probe,
    mean_keys: block_pool::Plan<T>,
    coverage: Launch,
    decide: Launch,
    map: Launch,
    cut: Launch,
    rows: Launch,
    bitmask: Bitmask,
    workspace: Workspace,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// The most launches of a run.
    pub const MAX_LAUNCHES: usize = 8 + block_mask::Plan::LAUNCHES;

    /// Plans searches of `shape`, allocates their workspace, and uploads the tables of sequences.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for options out of range, and for a type, head dim or
    /// block size that the kernels do not take, [`Error::TooLarge`](lacuna_core::Error::TooLarge) for sizes that a launch
    /// does not hold, [`Error::Device`](lacuna_core::Error::Device) for what the device refuses.
    pub fn new(context: &Context, shape: &AttentionShape, options: &FlexPrefillOptions) -> Result<Self> {
        let mut params = tables::params(shape, options, 0)?;
        let (dtype, block_size) = (check::dtype::<T>(), options.block_size);
        let no_kernel = || check::no_kernel::<T>(OP, shape.head_dim);
        let head_dim = u32::try_from(shape.head_dim).map_err(|_| no_kernel())?;
        let decide = kernel::flex_prefill_decide(dtype, head_dim).ok_or_else(no_kernel)?.kernel;
        let map = kernel::flex_prefill_map(dtype, head_dim).ok_or_else(no_kernel)?.kernel;

        let layout = SearchLayout::new(OP, shape, block_size, true)?;
        let sequences = Sequences::new(context, &layout, &params)?;
        let call = SearchCall::new(context, OP, shape, block_size, true)?;
        let bitmask = Bitmask::new(context, &call)?;
        params.words = bitmask.words();
        let probe = probe::Options {
            last_q: block_size,
            softmax_scale: options.softmax_scale,
            gqa_interleave: options.gqa_interleave,
            round: options.compat.probe_round,
        };
        let probe = Probe::new::<T>(context, OP, shape, &probe)?;
        let seqlens = &shape.seqlens;
        let (heads_k, dim) = (shape.num_heads_k, shape.head_dim);
        let mean_keys = block_pool::Plan::new(context, seqlens.cu_seqlens_k(), heads_k, dim, block_size)?;
        let (heads, batch) = (shape.num_heads, seqlens.batch());
        let launch = |kernel: &kernel::Kernel, x: usize| {
            let what = ["the number of query blocks", "num_heads", "the batch"];
            Launch::new(context, OP, kernel, [x, heads, batch], what)
        };
        let m_blocks = call.max_m_blocks;
        Ok(Self {
            coverage: launch(&kernel::flex_prefill_coverage(), 2)?,
            decide: launch(&decide, 1)?,
            map: launch(&map, m_blocks.div_ceil(FLEX_MAP_ROWS as usize))?,
            cut: launch(&kernel::flex_prefill_cut(), 1)?,
            rows: launch(&kernel::flex_prefill_rows(), m_blocks.div_ceil(FLEX_ROWS as usize))?,
            workspace: Workspace::new(context, batch, heads, sequences.blocks, mean_keys.pooled_len())?,
            context: context.clone(),
            shape: shape.clone(),
            block_size,
            call,
            sequences,
            params,
            probe,
            mean_keys,
            bitmask,
            element: PhantomData,
        })
    }

    /// A mask with room for what the search can find: what [`Plan::run`] takes.
    ///
    /// # Errors
    /// As [`DeviceBlockMask::for_search`].
    pub fn empty_mask(&self) -> Result<DeviceBlockMask> {
        DeviceBlockMask::for_search(&self.context, &self.shape, self.block_size, true)
    }

    /// Queues the search of `q`, `[total_q, num_heads, head_dim]`, against `k`, `[total_k, num_heads_k, head_dim]`, and the
    /// lists of the blocks that it keeps. `block_mask` is one made by [`Plan::empty_mask`]. Addresses and strides are
    /// multiples of 16 bytes.
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
        let arg = |name| Arg { op: OP, name };
        let this = &*self;
        let (context, shape) = (&this.context, &this.shape);
        arg("stream").stream(context, stream)?;
        let [total_q, total_k] = [shape.seqlens.total_q(), shape.seqlens.total_k()];
        let q = arg("q").view(context, q, [total_q, shape.num_heads, shape.head_dim])?;
        let k = arg("k").view(context, k, [total_k, shape.num_heads_k, shape.head_dim])?;
        let blocks = [this.block_size; 2];
        block_mask.fill(OP, context, shape, &this.call, blocks, |indptr, indices| {
            // SAFETY: the tensors have the plan's shape, the mask room for all blocks, and they lie on its device; buffers
            // live until queued work is done.
            unsafe { this.launch(stream.raw(), q, k, indptr, indices) }
        })
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]. Besides, `indptr` has room for a `u32` per row of the mask (sequence,
    /// then query head, then query block) and one more, and `indices`, at a multiple of 4 bytes, for [`Plan::max_blocks`] of
    /// them. No other work that uses them or the plan's workspace runs meanwhile: other runs of this plan are on the same
    /// stream or ordered by events.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        indptr: DevicePtr,
        indices: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(stream, q, k, indptr, indices) }
    }

    /// Launches of a run: they depend on the lengths and options alone.
    pub fn launches(&self) -> usize {
        let search = if self.is_searched() { 4 + 2 * usize::from(self.maps()) } else { 0 };
        // Decision and rows come for sequences that attend densely too.
        search + 2 + block_mask::Plan::LAUNCHES
    }

    /// The most blocks that a search of this shape can keep.
    pub fn max_blocks(&self) -> usize {
        self.call.blocks
    }

    /// Bytes of device memory that the plan allocates for its workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace.bytes() + self.probe.workspace_bytes() + self.bitmask.bytes()
    }

    /// What the last run decided, per sequence and query head. Waits for `stream`.
    ///
    /// # Errors
    /// A stream of another device, and what the driver reports.
    pub fn reports(&self, stream: &Stream) -> Result<Vec<HeadReport>> {
        let words = self.workspace.heads.to_host(stream)?;
        Ok(words
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&[kind, sqrt_jsd, vertical_blocks, slash_blocks]| HeadReport {
                dense: kind == FlexHead::DENSE,
                query_aware: kind == FlexHead::QUERY_AWARE,
                sqrt_jsd: f32::from_bits(sqrt_jsd),
                vertical_blocks: vertical_blocks as usize,
                slash_blocks: slash_blocks as usize,
            })
            .collect())
    }

    /// Whether some sequence is searched.
    fn is_searched(&self) -> bool {
        self.sequences.count > 0
    }

    /// Whether some head may be query-aware.
    fn maps(&self) -> bool {
        self.params.tau > 0.0
    }

    unsafe fn launch(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        indptr: DevicePtr,
        indices: DevicePtr,
    ) -> Result<()> {
        let params = FlexPrefillParams { q: Arg { op: OP, name: "q" }.raw::<T>(&q)?, ..self.params };
        let Workspace { mean_keys, token_counts, column_sums, slash_sums, logits, columns, diagonals, heads } =
            &self.workspace;
        let (sequences, first_blocks) = (self.call.sequences.ptr(), self.sequences.first_blocks.ptr());
        let (mean_keys, heads) = (mean_keys.ptr(), heads.ptr());
        let [column_sums, slash_sums, logits] = [column_sums, slash_sums, logits].map(|list| list.ptr());
        let [counts, columns, diagonals] = [token_counts, columns, diagonals].map(|list| list.ptr());
        let (vertical, slash) = (self.probe.vertical().ptr(), self.probe.slash().ptr());
        // The map lies where the lists go last.
        let map = indices;
        // SAFETY: the caller's promise for tensors and mask; the rest is the plan's, of the sizes that the kernels say. Each
        // kernel comes after those whose results it reads, on the same stream.
        unsafe {
            if self.is_searched() {
                self.probe.launch::<T>(OP, stream, q, k, self.sequences.searched.ptr())?;
                self.mean_keys.run_raw(stream, k, mean_keys)?;
                self.coverage.run(
                    stream,
                    [vertical, slash, counts, column_sums, slash_sums, sequences, first_blocks],
                    &params,
                )?;
            }
            let tensors = [
                q.ptr,
                mean_keys,
                counts,
                column_sums,
                slash_sums,
                logits,
                columns,
                diagonals,
                heads,
                sequences,
                first_blocks,
            ];
            self.decide.run(stream, tensors, &params)?;
            if self.is_searched() && self.maps() {
                self.map.run(stream, [q.ptr, mean_keys, heads, map, sequences, first_blocks], &params)?;
                self.cut.run(stream, [map, heads, sequences, first_blocks], &params)?;
            }
            let (bitmask, counts) = (self.bitmask.ptr(), self.bitmask.counts());
            self.rows.run(
                stream,
                [columns, diagonals, heads, map, bitmask, counts, sequences, first_blocks],
                &params,
            )?;
            self.bitmask.list(stream, indptr, indices)
        }
    }
}
