//! The largest entries of rows of scores.

use lacuna_core::{AttentionShape, Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{TokenTopKParams, TopKParams};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::search::SearchCall;
use crate::stream::Stream;

const OP: &str = "top_k";

/// Entries of a row that kernels count.
const MAX_ENTRIES: usize = (1 << 30) - 1;

/// The indices of the `k` largest scores of every row, ascending; all of them when there are fewer than `k`.
///
/// Equal scores (0 and -0 are equal) go to the lowest index, NaN comes after every number. Forced entries come before any
/// score and count towards `k`; when there are more than `k` of them, all are kept.
#[derive(Debug)]
pub struct Plan {
    rows: usize,
    launch: Launch,
    params: TopKParams,
    /// A bit per entry; empty when none is forced.
    forced: DeviceBuffer<u32>,
}

impl Plan {
    /// Plans selections from `rows` rows of `n` scores. `forced`, if given, says of each entry of a row whether it is
    /// forced.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a `k` of 0, [`Error::ShapeMismatch`] for a list `forced` of another length than a
    /// row, [`Error::TooLarge`] for rows of 2^30 scores or more and for more rows than a launch holds, [`Error::Device`]
    /// for what the device refuses.
    pub fn new(context: &Context, rows: usize, n: usize, k: usize, forced: Option<&[bool]>) -> Result<Self> {
        check_k("k", k)?;
        check_entries("the number of scores of a row", n)?;
        let mut k = k;
        let mut words = Vec::new();
        if let Some(forced) = forced {
            if forced.len() != n {
                return Err(Error::shape(OP, "forced", [n], [forced.len()]));
            }
            k = k.max(forced.iter().filter(|&&f| f).count());
            let word = |bits: &[bool]| bits.iter().rev().fold(0, |word, &bit| word << 1 | bit as u32);
            words = forced.chunks(32).map(word).collect();
        }
        // Rows without scores have no lists to write.
        let ctas = if n == 0 { 0 } else { rows };
        let what = ["the number of rows", "", ""];
        Ok(Self {
            rows,
            launch: Launch::new(context, OP, &kernel::top_k().kernel, [ctas, 1, 1], what)?,
            params: TopKParams { row_stride: n as u64, n: n as u32, k: k.min(n) as u32 },
            forced: DeviceBuffer::from_host(context, &words, "top_k forced entries")?,
        })
    }

    /// Indices of each row's list: `k`, or the number of forced entries if that is larger, and at most the scores of a row.
    pub fn list_len(&self) -> usize {
        self.params.k as usize
    }

    /// Queues the selection.
    ///
    /// | argument | shape |
    /// | --- | --- |
    /// | `scores` | `[rows, n]` |
    /// | `indices` | `[rows, list_len]` |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for buffers of other sizes, [`Error::InvalidArgument`] for one of another device.
    pub fn run(
        &self,
        stream: &Stream,
        scores: &DeviceBuffer<f32>,
        indices: &mut DeviceBuffer<u32>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let scores = arg("scores").list(context, Some(scores), [self.rows, self.params.n as usize])?;
        let indices = arg("indices").list(context, Some(indices), [self.rows, self.list_len()])?;
        // SAFETY: both have the plan's size and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), scores, self.params.row_stride, indices) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner: `row_stride` is from a row of scores to the next.
    ///
    /// # Safety
    /// `scores` leads to `rows` rows of `n` `f32` at that stride, `indices` to `[rows, list_len]` `u32`, both in memory of
    /// the plan's device, multiples of 4 bytes; nothing writes the one or uses the other until the work is done. `stream`
    /// is a live stream of the device.
    ///
    /// # Errors
    /// What the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        scores: DevicePtr,
        row_stride: u64,
        indices: DevicePtr,
    ) -> Result<()> {
        let params = TopKParams { row_stride, ..self.params };
        // SAFETY: the caller's promise; the bits of the forced entries are the plan's.
        unsafe { self.launch.run(stream, [scores, self.forced.ptr(), indices], &params) }
    }
}

/// What [`TokenPlan`] keeps of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenTopK {
    /// Tokens to keep; all of a shorter sequence.
    pub k: usize,
    /// So many tokens from the first on come before all others, whatever their scores, and count towards `k`.
    pub forced: usize,
    /// Lists from the largest index to the smallest instead of from the smallest.
    pub descending: bool,
}

/// The `k` largest token scores of every sequence and query head, as [`Plan`] has them, where rows are as long as the
/// sequence has keys.
#[derive(Debug)]
pub struct TokenPlan {
    rows: usize,
    scores: usize,
    launch: Launch,
    params: TokenTopKParams,
    call: SearchCall,
}

impl TokenPlan {
    /// Plans selections for a ragged batch and uploads the table of its sequences.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn new(context: &Context, shape: &AttentionShape, options: TokenTopK) -> Result<Self> {
        let TokenTopK { k, forced, descending } = options;
        check_k("k", k)?;
        let (batch, heads) = (shape.seqlens.batch(), shape.num_heads);
        check_entries("the number of keys of a sequence", shape.seqlens.max_seqlen_k())?;
        let lists = batch.saturating_mul(heads);
        check::to_u32(OP, "the number of lists", lists)?;
        // No list is longer than the longest sequence.
        let k = k.min(shape.seqlens.max_seqlen_k());
        let call = SearchCall::new(context, OP, shape, MAX_ENTRIES, true)?;
        let what = ["", "the number of query heads", "the number of sequences"];
        Ok(Self {
            rows: lists,
            scores: shape.seqlens.total_k().saturating_mul(heads),
            launch: Launch::new(context, OP, &kernel::top_k_tokens().kernel, [1, heads, batch], what)?,
            params: TokenTopKParams {
                num_heads: heads as u32,
                k: k as u32,
                forced: forced.min(MAX_ENTRIES) as u32,
                descending: descending.into(),
            },
            call,
        })
    }

    /// Room of each list: `k`, or the keys of the longest sequence if those are fewer.
    pub fn list_len(&self) -> usize {
        self.params.k as usize
    }

    /// Queues the selection.
    ///
    /// | argument | shape |
    /// | --- | --- |
    /// | `scores` | `[sequence][query head][k_len]`, sequences one behind the other |
    /// | `indices` | `[sequences, query heads, list_len]`; what lies behind a list's end is left as it was |
    /// | `counts` | `[sequences, query heads]`, how many indices each list holds |
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run(
        &self,
        stream: &Stream,
        scores: &DeviceBuffer<f32>,
        indices: &mut DeviceBuffer<u32>,
        counts: &mut DeviceBuffer<u32>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let scores = arg("scores").list(context, Some(scores), [self.scores])?;
        let indices = arg("indices").list(context, Some(indices), [self.rows, self.list_len()])?;
        let counts = arg("counts").list(context, Some(counts), [self.rows])?;
        // SAFETY: all have the plan's size and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), scores, indices, counts) }
    }

    /// As [`TokenPlan::run`], on addresses and a stream of any owner.
    ///
    /// # Safety
    /// The addresses lead to what [`TokenPlan::run`] lists, in memory of the plan's device, multiples of 4 bytes; nothing
    /// writes the scores or uses the others until the work is done. `stream` is a live stream of the device.
    ///
    /// # Errors
    /// What the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        scores: DevicePtr,
        indices: DevicePtr,
        counts: DevicePtr,
    ) -> Result<()> {
        let pointers = [scores, self.call.sequences.ptr(), indices, counts];
        // SAFETY: the caller's promise; the table is the plan's.
        unsafe { self.launch.run(stream, pointers, &self.params) }
    }
}

fn check_k(arg: &'static str, k: usize) -> Result<()> {
    if k == 0 { Err(Error::invalid(OP, arg, "at least 1", k)) } else { Ok(()) }
}

fn check_entries(what: &'static str, n: usize) -> Result<()> {
    if n <= MAX_ENTRIES {
        return Ok(());
    }
    Err(Error::TooLarge { op: OP, what, limit: MAX_ENTRIES as u64, got: n.to_string() })
}
