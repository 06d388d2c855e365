//! Merging of attention results over disjoint sets of keys.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{DType, Element, Error, Layout, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::MergeParams;
use lacuna_kernels_gpu::tile_size::MERGE_ROWS;

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "merge_state";

/// Merges partial results: attention over the keys of all parts.
///
/// ```text
/// lse = ln sum_p exp(lse_p)        out = sum_p exp(lse_p - lse) out_p
/// ```
///
/// Parts have elements of type `P`, the output of type `T`: the same, or `P = f32` with a 16-bit `T`. The head dim is 64 or
/// 128. A part whose LSE is `-inf` takes no part, whatever its output holds; rows without any part become zeros and `-inf`.
/// Computed in `f32` relative to the largest log-sum-exp, in the order of the parts.
#[derive(Debug)]
pub struct Plan<P, T> {
    num_parts: usize,
    total_q: usize,
    num_heads: usize,
    head_dim: usize,
    launch: Launch,
    elements: PhantomData<(P, T)>,
}

/// The parts as the raw level takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawParts {
    /// Outputs of the first part.
    pub out: RawTensor,
    /// Elements from a part's outputs to the next part's, modulo 2^64; a multiple of 16 bytes.
    pub out_step: u64,
    /// LSEs of the first part, contiguous `[num_heads, total_q]`.
    pub softmax_lse: DevicePtr,
    /// Elements from a part's LSEs to the next part's, modulo 2^64.
    pub lse_step: u64,
}

impl<P: Element + Pod, T: Element + Pod> Plan<P, T> {
    /// Plans merges of `num_parts` results of `total_q` tokens and `num_heads` heads.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for types or a head dim that the kernels do not take, [`Error::TooLarge`] for sizes that
    /// a launch does not hold, [`Error::Device`] for what the device refuses.
    pub fn new(
        context: &Context,
        num_parts: usize,
        total_q: usize,
        num_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        let (part, out) = (check::dtype::<P>(), check::dtype::<T>());
        let kernel = u32::try_from(head_dim)
            .ok()
            .and_then(|dim| kernel::merge_state(part, out, dim))
            .ok_or_else(|| match P::DTYPE == T::DTYPE || P::DTYPE == DType::F32 {
                true => Error::invalid(OP, "head_dim", "64 or 128 on a device", head_dim),
                false => Error::invalid(
                    OP,
                    "the dtype of the parts",
                    format_args!("f32 or that of the output ({})", T::DTYPE),
                    P::DTYPE,
                ),
            })?;
        check::to_u32(OP, "the number of parts", num_parts)?;
        check::to_u32(OP, "the number of tokens", total_q)?;
        check::to_u32(OP, "the number of heads", num_heads)?;
        // Below 2^64: both are below 2^32.
        let rows = total_q * num_heads;
        Ok(Self {
            num_parts,
            total_q,
            num_heads,
            head_dim,
            launch: Launch::new(
                context,
                OP,
                &kernel.kernel,
                [rows.div_ceil(MERGE_ROWS as usize), 1, 1],
                ["the number of rows", "", ""],
            )?,
            elements: PhantomData,
        })
    }

    /// Queues the merge of parts that lie in one tensor.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `parts` | `[num_parts * total_q, num_heads, head_dim]`, a batch of `num_parts` | `P` |
    /// | `part_lse` | `[num_parts, num_heads, total_q]`, natural log | `f32` |
    /// | `out` | `[total_q, num_heads, head_dim]` | `T` |
    /// | `softmax_lse` | `[num_heads, total_q]` | `f32` |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device.
    pub fn run(
        &self,
        stream: &Stream,
        parts: &DeviceView<P>,
        part_lse: &DeviceBuffer<f32>,
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        let layout = parts.layout();
        arg("parts").device(context, parts.driver())?;
        // `new` bounds neither product; a view's own tokens do not overflow.
        let want = [self.num_parts.saturating_mul(self.total_q), self.num_heads, self.head_dim];
        if parts.shape() != want {
            return Err(Error::shape(OP, "parts", want, parts.shape()));
        }
        let out_step = match layout.batch {
            n if n == self.num_parts => layout.batch_stride,
            1 => self.total_q.saturating_mul(layout.token_stride),
            n => return Err(Error::invalid(OP, "the batch of parts", self.num_parts, n)),
        };
        let lse =
            arg("part_lse").list(context, Some(part_lse), [self.num_parts, self.num_heads, self.total_q])?;
        let raw = RawParts {
            out: RawTensor {
                ptr: parts.ptr(),
                token_stride: layout.token_stride,
                head_stride: layout.head_stride,
            },
            out_step: out_step as u64,
            softmax_lse: lse,
            lse_step: (self.num_heads * self.total_q) as u64,
        };
        let (out, softmax_lse) = self.check_out(stream, out, softmax_lse)?;
        // SAFETY: parts and outputs have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), &raw, out, softmax_lse) }
    }

    /// Queues the merge of two parts, in the order `a`, `b`, for a plan of two parts. Both have the same strides.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run_pair(
        &self,
        stream: &Stream,
        (out_a, lse_a): (&DeviceView<P>, &DeviceBuffer<f32>),
        (out_b, lse_b): (&DeviceView<P>, &DeviceBuffer<f32>),
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        if self.num_parts != 2 {
            return Err(Error::invalid(OP, "the plan's number of parts", 2, self.num_parts));
        }
        let context = self.launch.context();
        let want = [self.total_q, self.num_heads, self.head_dim];
        let a = arg("out_a").view(context, out_a, want)?;
        let b = arg("out_b").view(context, out_b, want)?;
        let strides = |layout: &Layout| [layout.token_stride, layout.head_stride];
        if strides(out_a.layout()) != strides(out_b.layout()) {
            let (want, got) = (strides(out_a.layout()), strides(out_b.layout()));
            return Err(Error::shape(OP, "the strides of out_b", want, got));
        }
        arg("out_a").aligned(a.ptr)?;
        arg("out_b").aligned(b.ptr)?;
        let lse = [("lse_a", lse_a), ("lse_b", lse_b)]
            .map(|(name, lse)| arg(name).list(context, Some(lse), [self.num_heads, self.total_q]));
        let [lse_a, lse_b] = lse;
        let (lse_a, lse_b) = (lse_a?, lse_b?);
        // The second part may lie before the first: steps wrap, as the kernel's addresses do.
        let step =
            |a: DevicePtr, b: DevicePtr, size: usize| (b.0.wrapping_sub(a.0) as i64 / size as i64) as u64;
        let raw = RawParts {
            out: a,
            out_step: step(a.ptr, b.ptr, size_of::<P>()),
            softmax_lse: lse_a,
            lse_step: step(lse_a, lse_b, size_of::<f32>()),
        };
        let (out, softmax_lse) = self.check_out(stream, out, softmax_lse)?;
        // SAFETY: as in `run`.
        unsafe { self.run_raw(stream.raw(), &raw, out, softmax_lse) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked. `out` may be one of the parts.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: parts, their LSEs, `out` and `softmax_lse` (null, or
    /// `f32 [num_heads, total_q]`) hold what the plan's shape and the strides say, in memory of the plan's device.
    ///
    /// # Errors
    /// An address, stride or step that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        parts: &RawParts,
        out: RawTensor,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let step = 16 / size_of::<P>() as u64;
        if !parts.out_step.is_multiple_of(step) {
            let expected = format_args!("a multiple of {step} elements").to_string();
            return Err(Error::invalid(OP, "the step between parts", expected, parts.out_step));
        }
        let params = MergeParams {
            part: arg("parts").raw::<P>(&parts.out)?,
            part_step: parts.out_step,
            out: arg("out").raw::<T>(&out)?,
            part_lse_head: self.total_q as u64,
            part_lse_step: parts.lse_step,
            total_q: self.total_q as u32,
            num_heads: self.num_heads as u32,
            num_parts: self.num_parts as u32,
            reserved: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch.run(stream, [parts.out.ptr, parts.softmax_lse, out.ptr, softmax_lse], &params) }
    }

    fn check_out(
        &self,
        stream: &Stream,
        out: &DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<(RawTensor, DevicePtr)> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let out = arg("out").view_mut(context, out, [self.total_q, self.num_heads, self.head_dim])?;
        let lse = arg("softmax_lse").list(context, softmax_lse.as_deref(), [self.num_heads, self.total_q])?;
        Ok((out, lse))
    }
}
