//! Decode attention: a few query rows per sequence over a long, padded cache of keys and values.

use std::marker::PhantomData;

use lacuna_core::{AttentionOptions, DecodeShape, Element, Error, Layout, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{DecodeParams, Strides};
use lacuna_kernels_gpu::tile_size::{MERGE_ROWS, max_decode_splits};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};
use crate::workspace::DecodeWorkspace;

const OP: &str = "decode_attention";

/// Decode attention over padded caches, planned for the largest lengths and run for every token.
///
/// Flash decoding: the keys of a sequence are cut into splits, CTAs work on them side by side, and a second kernel merges
/// their results by their log-sum-exps. All heads of a group, and all query rows, share one pass over the keys and values.
/// What is computed, and how exactly, is said by [`crate::dense_attention::Plan`].
///
/// The splits are those of the sequence alone: a row's bits do not depend on the batch. The grid is that of the largest
/// lengths, so that a run queues the same launches for every token.
///
/// The plan owns the workspace: two runs of one plan have to be on one stream, or ordered by events.
#[derive(Debug)]
pub struct Plan<T> {
    batch: usize,
    seqlen_q: usize,
    num_heads: usize,
    num_heads_k: usize,
    head_dim: usize,
    max_seqlen_k: usize,
    attention: Launch,
    merge: Launch,
    workspace: DecodeWorkspace,
    cu_seqlens_q: DeviceBuffer<u32>,
    /// First keys of the sequences, then numbers of keys.
    k_ranges: DeviceBuffer<u32>,
    k_ranges_host: Vec<u32>,
    params: DecodeParams,
    element: PhantomData<T>,
}

/// The tensors of one call, and where the lengths lie.
struct Call {
    q: RawTensor,
    k_cache: RawTensor,
    v_cache: RawTensor,
    k_starts: DevicePtr,
    k_lens: DevicePtr,
    out: RawTensor,
    softmax_lse: DevicePtr,
}

impl<T: Element> Plan<T> {
    /// Plans calls in which every sequence has `max_seqlen_q` new tokens, over caches of which up to `max_seqlen_k` tokens
    /// are filled, and allocates the workspace.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `max_seqlen_q` outside 1..=64 and for a type, head dim or scale that the kernels do
    /// not take, [`Error::TooLarge`] for sizes that a launch does not hold, [`Error::Device`] for what the device
    /// refuses.
    pub fn new(context: &Context, sizes: &DecodeShape, options: &AttentionOptions) -> Result<Self> {
        let shape = sizes.full(OP)?;
        let DecodeShape { batch, max_seqlen_q: seqlen_q, num_heads, num_heads_k, head_dim, max_seqlen_k } =
            *sizes;
        let softmax_scale = check::softmax_scale(OP, &shape, options)?;
        let group = shape.group_size();
        let dtype = check::dtype::<T>();
        let no_kernel = || check::no_kernel::<T>(OP, head_dim);
        let dim = u32::try_from(head_dim).map_err(|_| no_kernel())?;
        let rows = seqlen_q.checked_mul(group).ok_or_else(|| Error::TooLarge {
            op: OP,
            what: "the number of query rows per KV head",
            limit: u32::MAX as u64,
            got: format!("{seqlen_q} x {group}"),
        })?;
        let rows_u32 = check::to_u32(OP, "the number of query rows per KV head", rows)?;
        let attention = kernel::decode_attention(dtype, dim, rows_u32).ok_or_else(no_kernel)?;
        let merge = kernel::decode_merge(dtype, dim).ok_or_else(no_kernel)?;

        let max_splits = max_decode_splits(check::to_u32(OP, "max_seqlen_k", max_seqlen_k)?);
        let row_tiles = rows_u32.div_ceil(attention.tile.tile_m);
        let (head_step_k, head_step) = check::head_steps(OP, &shape, options)?;
        let none = Strides { token: 0, head: 0 };
        let params = DecodeParams {
            q: none,
            k: none,
            v: none,
            out: none,
            total_q: check::to_u32(OP, "the number of query tokens", shape.seqlens.total_q())?,
            num_heads_k: check::to_u32(OP, "num_heads_k", num_heads_k)?,
            group: check::to_u32(OP, "the number of query heads per KV head", group)?,
            head_step_k,
            head_step,
            causal: options.causal.into(),
            softmax_scale,
            max_splits,
            row_tiles,
            max_seqlen_q: seqlen_q as u32,
        };
        // The kernels number the partial results, rows aside, in 32 bits.
        let slots =
            [batch, max_splits as usize, num_heads_k].iter().try_fold(1usize, |a, &n| a.checked_mul(n));
        check::to_u32(OP, "batch x splits x num_heads_k", slots.unwrap_or(usize::MAX))?;
        let tiles = batch.checked_mul(row_tiles as usize).ok_or_else(|| Error::TooLarge {
            op: OP,
            what: "the number of query tiles",
            limit: u32::MAX as u64,
            got: format!("{batch} x {row_tiles}"),
        })?;
        let attention = Launch::new(
            context,
            OP,
            &attention.kernel,
            [max_splits as usize, num_heads_k, tiles],
            ["the number of splits", "num_heads_k", "the number of query tiles"],
        )?;
        let merge = Launch::new(
            context,
            OP,
            &merge.kernel,
            [rows.div_ceil(MERGE_ROWS as usize), num_heads_k, batch],
            ["the number of query rows", "num_heads_k", "the batch"],
        )?;
        Ok(Self {
            batch,
            seqlen_q,
            num_heads,
            num_heads_k,
            head_dim,
            max_seqlen_k,
            attention,
            merge,
            workspace: DecodeWorkspace::new(
                context,
                [batch, max_splits as usize, num_heads_k, rows],
                head_dim,
            )?,
            cu_seqlens_q: DeviceBuffer::from_host(
                context,
                shape.seqlens.cu_seqlens_q(),
                "decode_attention cu_seqlens_q",
            )?,
            k_ranges: DeviceBuffer::uninit(context, 2 * batch, "decode_attention key ranges")?,
            k_ranges_host: vec![0; 2 * batch],
            params,
            element: PhantomData,
        })
    }

    /// Queues the computation of `out`, and of `softmax_lse` if it is asked for.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `q`, `out` | `[batch * seqlen_q, num_heads, head_dim]` | `T` |
    /// | `k_cache`, `v_cache` | `[batch * capacity, num_heads_k, head_dim]`, any capacity | `T` |
    /// | `cache_seqlens` | `[batch]`: filled tokens of each cache, those of `q` among them | `u32` |
    /// | `softmax_lse` | `[num_heads, batch * seqlen_q]`, natural log | `f32` |
    ///
    /// Query row `i` of a sequence sees key `j` iff `j < cache_seqlen` and, if causal, `j <= i + cache_seqlen - seqlen_q`.
    /// What lies in a cache past the filled tokens is not read. Addresses and strides are multiples of 16 bytes. Caches may
    /// be `B,S,H,D` or `B,H,S,D` memory, both the same.
    ///
    /// Uploads the lengths, and can therefore not be recorded into a [`Graph`](crate::Graph); [`Plan::run_raw`] can.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device, and for a `cache_seqlen` above the capacity or `max_seqlen_k`.
    pub fn run(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k_cache: &DeviceView<T>,
        v_cache: &DeviceView<T>,
        cache_seqlens: &[u32],
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.attention.context();
        arg("stream").stream(context, stream)?;
        let total_q = self.batch * self.seqlen_q;
        let q_shape = [total_q, self.num_heads, self.head_dim];
        let q = arg("q").view(context, q, q_shape)?;
        let out = arg("out").view_mut(context, out, q_shape)?;
        let capacity = k_cache.shape()[0].checked_div(self.batch).unwrap_or(0);
        let cache_shape = [self.batch * capacity, self.num_heads_k, self.head_dim];
        for (name, cache) in [("k_cache", k_cache), ("v_cache", v_cache)] {
            arg(name).device(context, cache.driver())?;
            if cache.shape() != cache_shape {
                return Err(Error::shape(OP, name, cache_shape, cache.shape()));
            }
        }
        let step = self.cache_step(capacity, k_cache.layout(), v_cache.layout())?;
        if cache_seqlens.len() != self.batch {
            return Err(Error::shape(OP, "cache_seqlens", [self.batch], [cache_seqlens.len()]));
        }
        let limit = capacity.min(self.max_seqlen_k);
        if let Some(n) = cache_seqlens.iter().find(|&&n| n as usize > limit) {
            let expected = format_args!("at most {limit}").to_string();
            return Err(Error::invalid(OP, "cache_seqlens", expected, n));
        }
        let softmax_lse =
            arg("softmax_lse").list(context, softmax_lse.as_deref(), [self.num_heads, total_q])?;

        let (starts, lens) = self.k_ranges_host.split_at_mut(self.batch);
        for (b, start) in starts.iter_mut().enumerate() {
            // In range: `cache_step` has checked the last one.
            *start = (b * step) as u32;
        }
        lens.copy_from_slice(cache_seqlens);
        self.k_ranges.copy_from_host(stream, &self.k_ranges_host)?;
        let k_starts = self.k_ranges.ptr();
        let call = Call {
            q,
            k_cache: k_cache.raw(),
            v_cache: v_cache.raw(),
            k_starts,
            k_lens: k_starts.offset(self.batch * size_of::<u32>()),
            out,
            softmax_lse,
        };
        // SAFETY: the tensors have the plan's shape and lie on its device, and so do the ranges, which lie in the caches;
        // buffers live until queued work is done.
        unsafe { self.launch_on(stream.raw(), &call) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner, the lengths in device memory: nothing but launches, so
    /// that it can be captured into a graph. Alignment is checked.
    ///
    /// Token `j` of sequence `b` is token `k_starts[b] + j` of `k_cache` and `v_cache`, both `u32 [batch]`.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`], `k_cache` and `v_cache` holding the tokens `k_starts[b] ..
    /// k_starts[b] + k_lens[b]`, with every `k_lens[b]` at most `max_seqlen_k`. No other work that uses the plan's
    /// workspace runs meanwhile: other runs of this plan are on the same stream or ordered by events.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        q: RawTensor,
        k_cache: RawTensor,
        v_cache: RawTensor,
        k_starts: DevicePtr,
        k_lens: DevicePtr,
        out: RawTensor,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        let call = Call { q, k_cache, v_cache, k_starts, k_lens, out, softmax_lse };
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(stream, &call) }
    }

    unsafe fn launch_on(&self, stream: RawStream, call: &Call) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let params = DecodeParams {
            q: arg("q").raw::<T>(&call.q)?,
            k: arg("k_cache").raw::<T>(&call.k_cache)?,
            v: arg("v_cache").raw::<T>(&call.v_cache)?,
            out: arg("out").raw::<T>(&call.out)?,
            ..self.params
        };
        let (partial_out, partial_lse) = (self.workspace.out.ptr(), self.workspace.lse.ptr());
        let (q, k, v) = (call.q.ptr, call.k_cache.ptr, call.v_cache.ptr);
        let cu_seqlens_q = self.cu_seqlens_q.ptr();
        // SAFETY: the caller's promise for the tensors; the rest is the plan's, of the sizes that the kernels say. The merge
        // comes after the splits on the same stream.
        unsafe {
            self.attention.run(
                stream,
                [q, k, v, partial_out, partial_lse, cu_seqlens_q, call.k_starts, call.k_lens],
                &params,
            )?;
            self.merge.run(
                stream,
                [partial_out, partial_lse, call.out.ptr, call.softmax_lse, cu_seqlens_q, call.k_lens],
                &params,
            )
        }
    }

    /// Tokens from a sequence's cache to the next one's, in steps of the token stride: the capacity in `B,S,H,D` memory,
    /// that times the heads in contiguous `B,H,S,D`.
    fn cache_step(&self, capacity: usize, k: &Layout, v: &Layout) -> Result<usize> {
        let of = |layout: &Layout| {
            if layout.batch <= 1 {
                // One axis of tokens, or a single sequence.
                return Some(capacity);
            }
            let divides = layout.token_stride > 0 && layout.batch_stride.is_multiple_of(layout.token_stride);
            (divides && layout.batch == self.batch).then(|| layout.batch_stride / layout.token_stride)
        };
        let last = |step: usize| self.batch.saturating_sub(1).checked_mul(step)?.checked_add(capacity);
        match (of(k), of(v)) {
            (Some(step), Some(other)) if step == other || self.batch <= 1 => {
                let fits = last(step).is_some_and(|n| n <= u32::MAX as usize);
                fits.then_some(step).ok_or_else(|| Error::TooLarge {
                    op: OP,
                    what: "the extent of a cache in tokens",
                    limit: u32::MAX as u64,
                    got: format!("{} x {step}", self.batch),
                })
            }
            _ => Err(Error::invalid(
                OP,
                "k_cache and v_cache",
                "with the same whole number of token strides from a sequence to the next",
                format_args!("{k:?} and {v:?}"),
            )),
        }
    }
}
