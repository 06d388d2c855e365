//! Block selection by coverage: in every row the highest scores until a share of the row's total is reached
//! (XAttention, Xu et al. 2025, arXiv 2503.16428).

use lacuna_core::{AttentionShape, Error, Result, XAttentionOptions};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::BlockSelectParams;

use crate::buffer::DeviceBuffer;
use crate::check::Arg;
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::search::SearchCall;
use crate::stream::Stream;

const OP: &str = "block_select";

/// The selection for one shape, from scores in device memory to a bitmask there.
///
/// Row `m` of a sequence covers the key positions `t0 = P + m b ..= t1 = P + min((m + 1) b, seqlen_q) - 1`, with
/// `b = block_size` and `P = seqlen_k - seqlen_q`. Its scores are `A[n]`, added up in fixed point: what is taken depends on
/// no order.
///
/// - *Candidates*: causal, the blocks that begin at or before `t1`; otherwise all key blocks.
/// - *Forced*: causal, block 0 and the row's own blocks, those that meet `max(t0, 0) ..= t1`; otherwise none.
/// - A *threshold of 1* keeps all candidates.
/// - The other candidates, in descending order of score and ties by lowest index, are taken while the sum of the forced
///   and the taken scores is below `threshold * sum of A`: the block that crosses is kept.
/// - `keep_sink` then adds block 0, `keep_recent` the row's own blocks.
///
/// [`XAttentionCompat`](lacuna_core::XAttentionCompat) brings back the published code's departures.
///
/// # Scores
/// Rows lie one behind the other: sequence, query head, query block. Causal, a row has a score for each of its candidates;
/// otherwise, and with `chunk_align_past`, one for every key block of its sequence ([`Plan::packed_causal`]). Scores are
/// finite and not negative, and those of a row add up to less than 2^24; what is no positive number counts as 0. A value is
/// cut to a multiple of 2^-40.
///
/// # Bitmask
/// Rows of [`Plan::words`] words in the same order; bit `i` of word `w` says that key block `32 w + i` is kept.
#[derive(Debug)]
pub struct Plan {
    call: SearchCall,
    launch: Launch,
    thresholds: DeviceBuffer<f32>,
    params: BlockSelectParams,
}

impl Plan {
    /// Plans selections for `shape`, and uploads the table of its sequences and the thresholds.
    ///
    /// # Errors
    /// Options out of range, [`Error::TooLarge`] for sizes that a launch or 32 bits do not hold, [`Error::Device`] for
    /// what the device refuses.
    pub fn new(
        context: &Context,
        shape: &AttentionShape,
        options: &XAttentionOptions,
        causal: bool,
    ) -> Result<Self> {
        options.check(OP, shape)?;
        let (block_size, heads, compat) = (options.block_size, shape.num_heads, options.compat);
        let packed_causal = Self::packed_causal(options, causal);
        let call = SearchCall::new(context, OP, shape, block_size, packed_causal)?;
        let words = call.max_n_blocks.div_ceil(32);
        call.rows.checked_mul(words).ok_or_else(|| Error::TooLarge {
            op: OP,
            what: "the number of words of the bitmask",
            limit: usize::MAX as u64,
            got: format!("{} x {words}", call.rows),
        })?;
        let kernel = kernel::block_select(call.max_n_blocks as u32);
        let grid = [call.max_m_blocks.div_ceil(kernel.rows as usize), heads, shape.seqlens.batch()];
        let what = ["the number of query blocks", "the number of query heads", "the number of sequences"];
        let params = BlockSelectParams {
            block_shift: block_size.trailing_zeros(),
            words: words as u32,
            // Beyond all lengths chunks differ in nothing.
            chunk: options.chunk_size.map_or(0, |chunk| chunk.min(1 << 30) as u32),
            causal: causal.into(),
            packed_causal: packed_causal.into(),
            keep_sink: options.keep_sink.into(),
            keep_recent: options.keep_recent.into(),
            first_chunk_quirk: compat.first_chunk_quirk.into(),
            keep_sink_row_bug: compat.keep_sink_row_bug.into(),
            chunk_align_past: compat.chunk_align_past.into(),
        };
        let thresholds: Vec<f32> = (0..heads).map(|h| options.threshold.of_head(h)).collect();
        Ok(Self {
            launch: Launch::new(context, OP, &kernel.kernel, grid, what)?,
            thresholds: DeviceBuffer::from_host(context, &thresholds, "block_select thresholds")?,
            call,
            params,
        })
    }

    /// Whether rows of scores have the blocks that the causal mask leaves visible, rather than all: not with
    /// `chunk_align_past`, which lets rows see blocks beyond it.
    pub fn packed_causal(options: &XAttentionOptions, causal: bool) -> bool {
        causal && !options.compat.chunk_align_past
    }

    /// Scores of all rows.
    pub fn num_scores(&self) -> usize {
        self.call.blocks
    }

    /// Rows of the bitmask: query blocks of all sequences and heads.
    pub fn num_rows(&self) -> usize {
        self.call.rows
    }

    /// Words of a row of the bitmask: key blocks of the longest sequence over 32, rounded up.
    pub fn words(&self) -> usize {
        self.params.words as usize
    }

    /// Bytes of device memory that the plan holds: the table of sequences and the thresholds.
    pub fn workspace_bytes(&self) -> usize {
        self.call.sequences.len() + self.thresholds.len() * size_of::<f32>()
    }

    /// Queues the selection.
    ///
    /// | argument | shape |
    /// | --- | --- |
    /// | `scores` | [`Plan::num_scores`] |
    /// | `bits` | `[num_rows, words]` |
    /// | `counts` | `[num_rows]`, how many blocks each row keeps |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for buffers of other sizes, [`Error::InvalidArgument`] for one of another device.
    pub fn run(
        &self,
        stream: &Stream,
        scores: &DeviceBuffer<f32>,
        bits: &mut DeviceBuffer<u32>,
        counts: &mut DeviceBuffer<u32>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let scores = arg("scores").list(context, Some(scores), [self.num_scores()])?;
        let bits = arg("bits").list(context, Some(bits), [self.num_rows(), self.words()])?;
        let counts = arg("counts").list(context, Some(counts), [self.num_rows()])?;
        // SAFETY: all have the plan's size and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), scores, DevicePtr::NULL, bits, counts) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. `thresholds`, unless null, stand for those of the options:
    /// one per head, from 0 to 1, as each layer of a model may have its own.
    ///
    /// # Safety
    /// The addresses lead to what [`Plan::run`] lists, in memory of the plan's device, multiples of 4 bytes; nothing writes
    /// the scores and thresholds or uses the others until the work is done. `stream` is a live stream of the device.
    ///
    /// # Errors
    /// What the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        scores: DevicePtr,
        thresholds: DevicePtr,
        bits: DevicePtr,
        counts: DevicePtr,
    ) -> Result<()> {
        let thresholds = if thresholds.is_null() { self.thresholds.ptr() } else { thresholds };
        let pointers = [scores, self.call.sequences.ptr(), thresholds, bits, counts];
        // SAFETY: the caller's promise; the tables are the plan's.
        unsafe { self.launch.run(stream, pointers, &self.params) }
    }
}
