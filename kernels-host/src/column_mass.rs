//! How much attention each key received.

use std::marker::PhantomData;
use std::ops::Range;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result};
use lacuna_kernels_gpu::kernel::{self, ColumnMassKernel};
use lacuna_kernels_gpu::params::{ColumnMassParams, SoftmaxScale, Strides};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "column_mass";

/// Adds to a key's mass the attention it received from some query rows of all heads:
///
/// ```text
/// mass[j] += sum over h, i of exp(softmax_scale * q[i, h] . k[j] - softmax_lse[h, i])
/// ```
///
/// over the rows `i` that see key `j`. `softmax_lse` is that of the attention itself, over all keys; rows whose value is `-inf`
/// add nothing. `T` is `bf16` or `f16`, the head dim 64 or 128.
///
/// One launch per call; nothing is allocated, neither by the plan nor by a run. A run adds to what `mass` holds, so that
/// it may be accumulated over layers.
///
/// # Numerics
/// Logits are accumulated in `f32`, probabilities are `f32`. Their sum over rows and heads carries its rounding errors along,
/// and is rounded to `f32` at its end. Its order depends on the rows and heads alone. A key that rows see and that is not
/// finite gets a mass that is not; others are untouched by it.
#[derive(Debug)]
pub struct Plan<T> {
    shape: AttentionShape,
    causal: bool,
    context: Context,
    kernel: ColumnMassKernel,
    params: ColumnMassParams,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape`, for any of its sequences and any rows and columns of these.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for a type, head dim or scale that the kernels do not take, [`Error::TooLarge`](lacuna_core::Error::TooLarge) for sizes
    /// that a launch does not hold, [`Error::Device`](lacuna_core::Error::Device) for what the device refuses.
    pub fn new(context: &Context, shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        let no_kernel = || check::no_kernel::<T>(OP, shape.head_dim);
        let head_dim = u32::try_from(shape.head_dim).map_err(|_| no_kernel())?;
        let kernel = kernel::column_mass(check::dtype::<T>(), head_dim).ok_or_else(no_kernel)?;
        // Loads it now rather than in the first run.
        context.kernel(&kernel.kernel)?;
        let group = check::to_u32(OP, "the number of query heads per KV head", shape.group_size())?;
        check::sequence_lengths(OP, &shape.seqlens)?;
        for b in 0..shape.seqlens.batch() {
            // With room for a step beyond the last row.
            let rows = shape.seqlens.seqlen_q(b).saturating_mul(group as usize).saturating_add(64);
            check::to_u32(OP, "the number of query rows per KV head", rows)?;
        }
        let (head_step_k, head_step) = check::head_steps(OP, shape, options)?;
        let mut softmax_scale = check::softmax_scale(OP, shape, options)?;
        if softmax_scale.query_and == 0 {
            // Here the scale meets the scores as it is, so that what is not finite stays so.
            softmax_scale = SoftmaxScale { log2: 0.0, query_and: u32::MAX, query_xor: 0 };
        }
        let none = Strides { token: 0, head: 0 };
        Ok(Self {
            causal: options.causal,
            context: context.clone(),
            kernel,
            params: ColumnMassParams {
                q: none,
                k: none,
                total_q: check::to_u32(OP, "the number of query tokens", shape.seqlens.total_q())?,
                num_heads_k: check::to_u32(OP, "num_heads_k", shape.num_heads_k)?,
                group,
                head_step_k,
                head_step,
                q_start: 0,
                q_len: 0,
                k_start: 0,
                k_len: 0,
                first_limit: 0,
                limit_step: options.causal.into(),
                softmax_scale,
            },
            shape: shape.clone(),
            element: PhantomData,
        })
    }

    /// Queues the addition to `mass`, one element per column.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `q` | `[total_q, num_heads, head_dim]` | `T` |
    /// | `k` | `[total_k, num_heads_k, head_dim]` | `T` |
    /// | `softmax_lse` | `[num_heads, total_q]`, natural log | `f32` |
    /// | `rows`, `columns` | query rows and keys of sequence `b`, counted from its start | |
    /// | `mass` | `[columns.len()]` | `f32` |
    ///
    /// Addresses and strides of `q` and `k` are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](lacuna_core::Error::ShapeMismatch) where a tensor does not fit, [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for one that is not aligned or lies on
    /// another device and for ranges that leave the sequence, [`Error::TooLarge`](lacuna_core::Error::TooLarge) for more columns than a launch holds.
    pub fn run(
        &self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        softmax_lse: &DeviceBuffer<f32>,
        b: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        mass: &mut DeviceBuffer<f32>,
    ) -> Result<()> {
        let (arg, shape) = (|name| Arg { op: OP, name }, &self.shape);
        arg("stream").stream(&self.context, stream)?;
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        let q = arg("q").view(&self.context, q, [total_q, shape.num_heads, shape.head_dim])?;
        let k = arg("k").view(&self.context, k, [total_k, shape.num_heads_k, shape.head_dim])?;
        let lse = arg("softmax_lse").list(&self.context, Some(softmax_lse), [shape.num_heads, total_q])?;
        shape.check_window(OP, b, &rows, &columns)?;
        let mass = arg("mass").list(&self.context, Some(mass), [columns.len()])?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), q, k, lse, b, rows, columns, mass) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]; `softmax_lse` holds `f32 [num_heads, total_q]` and `mass` one `f32`
    /// per column, which nothing else reads or writes meanwhile.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, ranges that leave the sequence, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        softmax_lse: DevicePtr,
        b: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        mass: DevicePtr,
    ) -> Result<()> {
        let (arg, shape) = (|name| Arg { op: OP, name }, &self.shape);
        shape.check_window(OP, b, &rows, &columns)?;
        if rows.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let seqlens = &shape.seqlens;
        // Below 2^30 each, as `new` has checked.
        let first_limit = if self.causal {
            rows.start as i64 + seqlens.past(b) as i64 + 1 - columns.start as i64
        } else {
            columns.len() as i64
        };
        let params = ColumnMassParams {
            q: arg("q").raw::<T>(&q)?,
            k: arg("k").raw::<T>(&k)?,
            q_start: (seqlens.q_range(b).start + rows.start) as u32,
            q_len: rows.len() as u32,
            k_start: (seqlens.k_range(b).start + columns.start) as u32,
            k_len: columns.len() as u32,
            first_limit: first_limit as i32,
            ..self.params
        };
        let tiles = columns.len().div_ceil(self.kernel.tile.tile_m as usize);
        let what = ["the number of tiles of keys", "", ""];
        let launch = Launch::new(&self.context, OP, &self.kernel.kernel, [tiles, 1, 1], what)?;
        // SAFETY: the caller's promise.
        unsafe { launch.run(stream, [q.ptr, k.ptr, softmax_lse, mass], &params) }
    }
}
