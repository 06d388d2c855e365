//! The block scores of XAttention (Xu et al. 2025, arXiv 2503.16428), in one launch.

use std::cmp::Reverse;
use std::marker::PhantomData;
use std::num::NonZeroU32;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result, Seqlens, XAttentionOptions};
use lacuna_kernels_gpu::block_grid::BlockGrid;
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{AntidiagonalParams, AntidiagonalQTile, Params, SoftmaxScale, Strides};
use lacuna_kernels_gpu::tile_size::AntidiagonalTile;

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::search::SearchCall;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "antidiagonal_score";

/// A score for every (sequence, query head, query block, key block) in device memory.
///
/// Rows hold the key blocks that the causal mask leaves visible and lie one behind the other, in the order sequence, head,
/// query block. Where visibility is counted in padded lengths ([`chunk_align_past`]), or there is no causal mask, they
/// hold all blocks.
///
/// [`chunk_align_past`]: lacuna_core::XAttentionCompat::chunk_align_past
#[derive(Debug)]
pub struct DeviceBlockScores {
    num_heads: usize,
    seqlens: Seqlens,
    block: NonZeroU32,
    /// Whether rows hold the visible blocks only.
    packed: bool,
    scores: DeviceBuffer<f32>,
}

impl DeviceBlockScores {
    /// The first score.
    pub fn ptr(&self) -> DevicePtr {
        self.scores.ptr()
    }

    /// The scores as the processor's kernels give them: `[sequence][head][m_block][n_block]`, blocks that no row holds 0.
    ///
    /// # Errors
    /// What the device reports.
    pub fn to_host(&self, stream: &Stream) -> Result<Vec<f32>> {
        let packed = self.scores.to_host(stream)?;
        let (mut rest, mut scores) = (packed.as_slice(), Vec::new());
        for b in 0..self.seqlens.batch() {
            let (q_len, k_len) = (self.seqlens.seqlen_q(b) as u32, self.seqlens.seqlen_k(b) as u32);
            let grid = BlockGrid { q_len, k_len, block: self.block, causal: self.packed };
            for m in (0..self.num_heads).flat_map(|_| 0..grid.m_blocks()) {
                let (row, others) = rest.split_at(grid.visible(m) as usize);
                scores.extend_from_slice(row);
                scores.resize(scores.len() + grid.n_blocks() as usize - row.len(), 0.0);
                rest = others;
            }
        }
        Ok(scores)
    }
}

/// The scores for one shape.
///
/// With `S = stride`, `P = seqlen_k - seqlen_q`: query group `i` holds rows `i S .. (i + 1) S`, key group `j` keys
/// `j S .. (j + 1) S`, each as far as they exist. The pairs of `(i, j)` are rows `i S + S - 1 - s` and keys `j S + s` for
/// `s` in `0..S`, where both exist. `L[i, j]` is the mean over the pairs of `softmax_scale * q . k / norm`. Group `i` sees
/// group `j` iff there is a pair and, when causal, `j S <= P + i S + S - 1`. The score of a block is the sum over its
/// groups of the softmax of `L[i, :]` over what `i` sees. [`XAttentionCompat`](lacuna_core::XAttentionCompat) changes this
/// as it does for the processor's kernel.
///
/// On a device strides are 4, 8 or 16, blocks of 64 or 128 tokens, head dims 64 or 128, types bf16 or f16.
///
/// # Numerics
/// Products are accumulated in `f32` in the order of the tensor cores, logits stay in `f32`, exponentials are within 2 units
/// in the last place. Sums are added block by block, strip of 64 groups by strip, and then over the rows of a block, in an
/// order that neither the batch nor the grid changes: the same inputs give the same bits. Values have to be finite; others make the
/// scores of their rows NaN.
///
/// # Memory
/// A workspace of `512 / block_size` bytes per key, and up to half of that again, for every CTA that runs at one time:
/// one per multiprocessor, or one per 128 groups and head where these are fewer. No map of groups is ever stored.
#[derive(Debug)]
pub struct Plan<T> {
    shape: AttentionShape,
    block: NonZeroU32,
    packed: bool,
    launch: Launch,
    search: SearchCall,
    tiles: DeviceBuffer<u8>,
    scratch: DeviceBuffer<f32>,
    params: AntidiagonalParams,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape`, uploads the tables and allocates the workspace.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range and for a stride, block size, type or head dim that the kernels
    /// do not take, [`Error::TooLarge`] for sizes that a launch does not hold, [`Error::Device`] for what the device
    /// refuses.
    pub fn new(
        context: &Context,
        shape: &AttentionShape,
        options: &XAttentionOptions,
        causal: bool,
    ) -> Result<Self> {
        options.check(OP, shape)?;
        let refuse = |arg, expected: &str, got: usize| Err(Error::invalid(OP, arg, expected.to_owned(), got));
        if !matches!(options.stride, 4 | 8 | 16) {
            return refuse("stride", "4, 8 or 16 on a device", options.stride);
        }
        if !matches!(options.block_size, 64 | 128) {
            return refuse("block_size", "64 or 128 on a device", options.block_size);
        }
        let no_kernel = || check::no_kernel::<T>(OP, shape.head_dim);
        if !matches!(shape.head_dim, 64 | 128) {
            return Err(no_kernel());
        }
        let (stride, block) = (options.stride as u32, options.block_size as u32);
        let groups_per_block = block / stride;
        let kernel =
            kernel::antidiagonal_score(check::dtype::<T>(), groups_per_block).ok_or_else(no_kernel)?;
        let attention = AttentionOptions {
            causal,
            softmax_scale: options.softmax_scale,
            gqa_interleave: options.gqa_interleave,
        };
        let (head_step_k, head_step) = check::head_steps(OP, shape, &attention)?;
        // In padded lengths a row may see blocks that the mask of tokens hides.
        let packed = causal && !options.compat.chunk_align_past;
        let search = SearchCall::new(context, OP, shape, options.block_size, packed)?;
        let tiles = tiles(shape, options, causal, kernel.tile);
        let work = tiles.len().saturating_mul(shape.num_heads);
        let ctas = work.min((context.info().multiprocessors * kernel.tile.min_ctas_per_sm) as usize);
        // Where a CTA looks for its next tile is still a number of 32 bits.
        check::to_u32(OP, "the number of tiles of all heads", work.saturating_add(ctas))?;
        let seen = tiles.iter().map(|tile| tile.seen).max().unwrap_or(0);
        let slab = kernel.tile.slab_floats(seen, groups_per_block);
        let scratch = usize::try_from(slab).ok().and_then(|slab| slab.checked_mul(ctas));
        let none = Strides { token: 0, head: 0 };
        let params = AntidiagonalParams {
            q: none,
            k: none,
            slab,
            scale_log2: scale_log2(shape, options)?,
            stride,
            head_slices: shape.head_dim as u32 / AntidiagonalTile::SLICE,
            block,
            causal: causal.into(),
            packed_causal: packed.into(),
            tail_group: options.compat.tail_group.into(),
            num_heads: check::to_u32(OP, "num_heads", shape.num_heads)?,
            group: check::to_u32(OP, "the number of query heads per KV head", shape.group_size())?,
            head_step_k,
            head_step,
            tiles: tiles.len() as u32,
            ctas: ctas as u32,
            reserved: 0,
        };
        let table: Vec<u8> = tiles.iter().flat_map(|tile| tile.entry.as_bytes().to_vec()).collect();
        Ok(Self {
            launch: Launch::new(
                context,
                OP,
                &kernel.kernel,
                [ctas, 1, 1],
                ["the number of CTAs", "nothing", "nothing"],
            )?,
            tiles: DeviceBuffer::from_host(context, &table, "antidiagonal_score tiles")?,
            scratch: DeviceBuffer::uninit(
                context,
                scratch.unwrap_or(usize::MAX),
                "antidiagonal_score scratch",
            )?,
            search,
            params,
            packed,
            block: NonZeroU32::new(block).expect("64 or 128"),
            shape: shape.clone(),
            element: PhantomData,
        })
    }

    /// Bytes of device memory that the plan allocated beside its tables.
    pub fn workspace_bytes(&self) -> usize {
        self.scratch.len() * size_of::<f32>()
    }

    /// Memory for the scores of this plan, their values undefined.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn new_scores(&self) -> Result<DeviceBlockScores> {
        Ok(DeviceBlockScores {
            num_heads: self.shape.num_heads,
            seqlens: self.shape.seqlens.clone(),
            block: self.block,
            packed: self.packed,
            scores: DeviceBuffer::uninit(self.launch.context(), self.search.blocks, "block scores")?,
        })
    }

    /// Queues the scoring of `q` `[total_q, num_heads, head_dim]` against `k` `[total_k, num_heads_k, head_dim]`.
    /// Addresses and strides are multiples of 16 bytes.
    ///
    /// The plan owns the workspace: two runs of one plan have to be on one stream, or ordered by events.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device, and for scores of another plan's shape.
    pub fn run(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        scores: &mut DeviceBlockScores,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        arg("scores").device(context, scores.scores.driver())?;
        let blocks = |block: NonZeroU32, packed: bool| {
            format!("{block} tokens, {}", if packed { "the visible ones" } else { "all" })
        };
        if (scores.num_heads, &scores.seqlens) != (self.shape.num_heads, &self.shape.seqlens)
            || (scores.block, scores.packed) != (self.block, self.packed)
        {
            return Err(Error::invalid(
                OP,
                "scores",
                format_args!(
                    "made for {} heads, blocks of {} and {:?}",
                    self.shape.num_heads,
                    blocks(self.block, self.packed),
                    self.shape.seqlens
                ),
                format_args!(
                    "{} heads, blocks of {} and {:?}",
                    scores.num_heads,
                    blocks(scores.block, scores.packed),
                    scores.seqlens
                ),
            ));
        }
        let (q, k) = self.tensors(OP, q, k)?;
        // SAFETY: the tensors have the plan's shape and lie on its device, and so do the scores; buffers live until queued
        // work is done.
        unsafe { self.run_raw(stream.raw(), q, k, scores.scores.ptr()) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner: one launch. Alignment is checked.
    ///
    /// # Safety
    /// The tensors hold the plan's shape, and `scores` an `f32` for every block of [`DeviceBlockScores`]' rows; all live,
    /// and nothing else writes them, until the work is done. No other work that uses the plan's workspace runs meanwhile.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        scores: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(OP, stream, q, k, scores) }
    }

    /// As [`Plan::run_raw`], for an operation `op` that the plan is part of.
    pub(crate) unsafe fn launch(
        &self,
        op: &'static str,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        scores: DevicePtr,
    ) -> Result<()> {
        let arg = |name| Arg { op, name };
        let params =
            AntidiagonalParams { q: arg("q").raw::<T>(&q)?, k: arg("k").raw::<T>(&k)?, ..self.params };
        let pointers =
            [q.ptr, k.ptr, scores, self.scratch.ptr(), self.search.sequences.ptr(), self.tiles.ptr()];
        // SAFETY: the caller's promise for tensors and scores; the rest is the plan's.
        unsafe { self.launch.run(stream, pointers, &params) }
    }

    /// The blocks that are scored.
    pub(crate) fn search(&self) -> &SearchCall {
        &self.search
    }

    /// The tensors of a call of `op`, checked.
    pub(crate) fn tensors(
        &self,
        op: &'static str,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
    ) -> Result<(RawTensor, RawTensor)> {
        let AttentionShape { num_heads, num_heads_k, head_dim, ref seqlens, .. } = self.shape;
        let arg = |name| Arg { op, name };
        let context = self.launch.context();
        let q = arg("q").view(context, q, [seqlens.total_q(), num_heads, head_dim])?;
        let k = arg("k").view(context, k, [seqlens.total_k(), num_heads_k, head_dim])?;
        Ok((q, k))
    }
}

/// A tile of the table, and the groups of keys that its last row sees.
struct Tile {
    entry: AntidiagonalQTile,
    seen: u32,
}

/// All tiles of groups of queries, those that see the most first: the long ones would otherwise start when the others are
/// done.
fn tiles(
    shape: &AttentionShape,
    options: &XAttentionOptions,
    causal: bool,
    tile: AntidiagonalTile,
) -> Vec<Tile> {
    /// More groups than a sequence has.
    const MOST: isize = 1 << 30;
    let (seqlens, stride) = (&shape.seqlens, options.stride);
    let mut tiles = Vec::new();
    for b in 0..seqlens.batch() {
        let (seqlen_q, seqlen_k) = (seqlens.seqlen_q(b), seqlens.seqlen_k(b));
        let (groups_q, groups_k) = (seqlen_q.div_ceil(stride), seqlen_k.div_ceil(stride) as isize);
        let past = options.past(seqlen_q, seqlen_k);
        // A group sees its own last token's group; a past in whole chunks is one in whole groups.
        let padded = options.compat.chunk_align_past;
        let reach = if padded { 0 } else { stride as isize - 1 };
        let past = (past + reach).div_euclid(stride as isize).clamp(-MOST, MOST);
        let end = if padded { (groups_k - past).max(0) as u32 } else { u32::MAX };
        for first in (0..groups_q).step_by(tile.tile_m as usize) {
            let last = (first + tile.tile_m as usize).min(groups_q) - 1;
            let seen = if causal { (last as isize + past + 1).clamp(0, groups_k) } else { groups_k };
            let entry = AntidiagonalQTile { sequence: b as u32, first: first as u32, past: past as i32, end };
            tiles.push(Tile { entry, seen: seen as u32 });
        }
    }
    tiles.sort_by_key(|tile| Reverse(tile.seen));
    tiles
}

/// The factor of the mean over pairs, in base 2.
fn scale_log2(shape: &AttentionShape, options: &XAttentionOptions) -> Result<f32> {
    let scale = shape.softmax_scale(options.softmax_scale) as f64 / options.norm as f64;
    if scale.abs() > SoftmaxScale::MAX as f64 {
        let expected = format_args!("at most {:e} in magnitude", SoftmaxScale::MAX).to_string();
        return Err(Error::invalid(OP, "softmax_scale / norm", expected, scale));
    }
    Ok((scale * std::f64::consts::LOG2_E) as f32)
}
