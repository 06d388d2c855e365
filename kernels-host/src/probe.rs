//! The probe of the pattern searches: the attention of the last queries over all keys, summed by key and by diagonal.

use std::marker::PhantomData;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{ProbeParams, SoftmaxScale, Strides};
use lacuna_kernels_gpu::tile_size::{PROBE_ROWS, probe_chunks};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::search::SearchCall;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "probe";

/// What a probe looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Queries of the probe, the last of each sequence: 1 to 128, and all of a sequence that has fewer.
    pub last_q: usize,
    /// Factor of the logits; `None` means `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// Query head `h` reads KV head `h % num_heads_k` instead of `h / group_size`.
    pub gqa_interleave: bool,
    /// Round scaled queries, and logits, to the element type, as the published code of FlexPrefill does.
    pub round: bool,
}

/// The launches of a probe and what they write, for searches that have a table of sequences.
#[derive(Debug)]
pub(crate) struct Probe {
    lse: Launch,
    sums: Launch,
    partial: DeviceBuffer<f32>,
    vertical: DeviceBuffer<f32>,
    slash: DeviceBuffer<f32>,
    params: ProbeParams,
}

impl Probe {
    /// Plans probes of `shape`, and allocates what they write. `op` is the search they are part of.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options, a type or a head dim that the kernels do not take, [`Error::TooLarge`] for
    /// sizes that a launch does not hold, [`Error::Device`] for what the device refuses.
    pub(crate) fn new<T: Element>(
        context: &Context,
        op: &'static str,
        shape: &AttentionShape,
        options: &Options,
    ) -> Result<Self> {
        if !(1..=PROBE_ROWS as usize).contains(&options.last_q) {
            return Err(Error::invalid(op, "last_q", format_args!("in 1..={PROBE_ROWS}"), options.last_q));
        }
        let dtype = check::dtype::<T>();
        let no_kernel = || check::no_kernel::<T>(op, shape.head_dim);
        let head_dim = u32::try_from(shape.head_dim).map_err(|_| no_kernel())?;
        let lse = kernel::probe_lse(dtype, head_dim).ok_or_else(no_kernel)?;
        let sums = kernel::probe_sums(dtype, head_dim).ok_or_else(no_kernel)?;

        let seqlens = &shape.seqlens;
        let mut max_chunks = 0;
        for b in 0..seqlens.batch() {
            let k_len = check::to_u32(op, "the number of keys of a sequence", seqlens.seqlen_k(b))?;
            max_chunks = max_chunks.max(probe_chunks(k_len));
        }
        let attention = AttentionOptions {
            causal: true,
            softmax_scale: options.softmax_scale,
            gqa_interleave: options.gqa_interleave,
        };
        let (head_step_k, head_step) = check::head_steps(op, shape, &attention)?;
        let softmax_scale = check::softmax_scale(op, shape, &attention)?;
        let none = Strides { token: 0, head: 0 };
        let params = ProbeParams {
            q: none,
            k: none,
            num_heads: check::to_u32(op, "num_heads", shape.num_heads)?,
            group: check::to_u32(op, "the number of query heads per KV head", shape.group_size())?,
            head_step_k,
            head_step,
            last_q: options.last_q as u32,
            max_chunks,
            round: options.round.into(),
            query_scale: shape.softmax_scale(options.softmax_scale),
            // Rounded queries are scaled already.
            softmax_scale: if options.round { SoftmaxScale::new(1.0) } else { softmax_scale },
            reserved: 0,
        };
        let grid =
            [(max_chunks as usize).saturating_mul(shape.group_size()), shape.num_heads_k, seqlens.batch()];
        let what = ["the number of chunks of keys", "num_heads_k", "the batch"];
        let scores = product(op, &[shape.num_heads, seqlens.total_k()])?;
        let rows = [seqlens.batch(), shape.num_heads, max_chunks as usize, PROBE_ROWS as usize, 2];
        Ok(Self {
            lse: Launch::new(context, op, &lse.kernel, grid, what)?,
            sums: Launch::new(context, op, &sums.kernel, grid, what)?,
            partial: DeviceBuffer::uninit(context, product(op, &rows)?, "probe partial sums")?,
            vertical: DeviceBuffer::uninit(context, scores, "probe vertical")?,
            slash: DeviceBuffer::uninit(context, scores, "probe slash")?,
            params,
        })
    }

    /// For every key, the sum of its probabilities over the probe rows, `[sequence][query head][k_len]`: those of sequence `b`
    /// and head `h` begin at `num_heads * k_start + h * k_len`.
    pub(crate) fn vertical(&self) -> &DeviceBuffer<f32> {
        &self.vertical
    }

    /// The same for every offset from a row's own key back.
    pub(crate) fn slash(&self) -> &DeviceBuffer<f32> {
        &self.slash
    }

    /// Bytes of device memory that it holds.
    pub(crate) fn workspace_bytes(&self) -> usize {
        (self.partial.len() + self.vertical.len() + self.slash.len()) * size_of::<f32>()
    }

    /// Queues the two launches that write `vertical` and `slash`.
    ///
    /// # Safety
    /// `q` and `k` hold elements of the type and shape that were planned, `sequences` a
    /// [`SearchSequence`](lacuna_kernels_gpu::params::SearchSequence) of each sequence; all of it lies on the plan's device
    /// and lives, unwritten, until the work is done. No other work reads or writes the probe's buffers meanwhile.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub(crate) unsafe fn launch<T: Element>(
        &self,
        op: &'static str,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        sequences: DevicePtr,
    ) -> Result<()> {
        let params = ProbeParams {
            q: Arg { op, name: "q" }.raw::<T>(&q)?,
            k: Arg { op, name: "k" }.raw::<T>(&k)?,
            ..self.params
        };
        let (partial, vertical, slash) = (self.partial.ptr(), self.vertical.ptr(), self.slash.ptr());
        // SAFETY: the caller's promise for the tensors and the table; the rest is the probe's, of the sizes that the kernels
        // say. The second pass comes after the first on the same stream.
        unsafe {
            self.lse.run(stream, [q.ptr, k.ptr, partial, sequences], &params)?;
            self.sums.run(stream, [q.ptr, k.ptr, partial, vertical, slash, sequences], &params)
        }
    }
}

fn product(op: &'static str, factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    product.ok_or_else(|| Error::TooLarge {
        op,
        what: "the workspace",
        limit: usize::MAX as u64,
        got: format!("{factors:?}"),
    })
}

/// The attention of the last queries of each sequence, summed by key and by diagonal.
///
/// ```text
/// m = min(last_q, seqlen_q)        row i of the probe stands at key position t(i) = seqlen_k - m + i
/// p[i, j] = softmax_j(softmax_scale * q_i . k_j)                                     over the keys j <= t(i)
/// vertical[j] = sum_i p[i, j]      slash[o] = sum_i p[i, t(i) - o]
/// ```
///
/// `T` is `bf16` or `f16`, the head dim 64 or 128. Two launches; what they keep beside their results is a maximum and a sum
/// per row and chunk of keys.
///
/// # Numerics
/// Logits are accumulated in `f32`, probabilities and sums are `f32`. The order of every sum is that of the rows, whatever the
/// key: equal probabilities give equal sums, so that ties stay ties. A sequence's bits do not depend on the batch around it.
/// Rows that stand before the first key see nothing and add nothing. Queries of the probe, and keys, have to be finite: one
/// that is not leaves NaN in the sums of its head.
#[derive(Debug)]
pub struct Plan<T> {
    q: [usize; 3],
    k: [usize; 3],
    probe: Probe,
    call: SearchCall,
    context: Context,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans probes of `shape`, allocates what they write, and uploads the table of sequences.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options, a type or a head dim that the kernels do not take, [`Error::TooLarge`] for
    /// sizes that a launch does not hold, [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, shape: &AttentionShape, options: &Options) -> Result<Self> {
        Ok(Self {
            q: [shape.seqlens.total_q(), shape.num_heads, shape.head_dim],
            k: [shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim],
            probe: Probe::new::<T>(context, OP, shape, options)?,
            call: SearchCall::new(context, OP, shape, PROBE_ROWS as usize, true)?,
            context: context.clone(),
            element: PhantomData,
        })
    }

    /// Queues the computation of [`Plan::vertical`] and [`Plan::slash`] from `q`, `[total_q, num_heads, head_dim]`, and `k`,
    /// `[total_k, num_heads_k, head_dim]`. Addresses and strides are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device.
    pub fn run(&mut self, stream: &Stream, q: &DeviceView<T>, k: &DeviceView<T>) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        arg("stream").stream(&self.context, stream)?;
        let q = arg("q").view(&self.context, q, self.q)?;
        let k = arg("k").view(&self.context, k, self.k)?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), q, k) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]. No other work that uses the plan's results or workspace runs
    /// meanwhile: other runs of this plan are on the same stream or ordered by events.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(&mut self, stream: RawStream, q: RawTensor, k: RawTensor) -> Result<()> {
        // SAFETY: the caller's promise; the table is the plan's.
        unsafe { self.probe.launch::<T>(OP, stream, q, k, self.call.sequences.ptr()) }
    }

    /// For every key, the sum of its probabilities over the probe rows, `[sequence][query head][seqlen_k]`: those of sequence
    /// `b` and head `h` begin at `num_heads * cu_seqlens_k[b] + h * seqlen_k`. Zeros for a sequence without queries.
    pub fn vertical(&self) -> &DeviceBuffer<f32> {
        self.probe.vertical()
    }

    /// The same for every offset: how far the key lies before the row's own position.
    pub fn slash(&self) -> &DeviceBuffer<f32> {
        self.probe.slash()
    }

    /// Bytes of device memory that the plan allocates for results and workspace: of the order of heads x keys.
    pub fn workspace_bytes(&self) -> usize {
        self.probe.workspace_bytes()
    }
}
