//! RMSNorm of rows, and the residual addition before it.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{Element, Error, Result};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_gpu::params::RmsNormParams;
use lacuna_kernels_gpu::tile_size::RMS_NORM_WIDE;

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "rms_norm";

/// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of rows of features, or of a residual stream after a branch has been
/// added to it.
///
/// ```text
/// x = round(x + branch)        out = weight * round(x / sqrt(mean(x^2) + eps)), rounded again
/// ```
///
/// Elements are bf16 or f16; a row has a multiple of 8 features, up to 65536. Squares, their mean and the quotient are
/// `f32`; what is rounded before the weight is applied is rounded as Llama was trained. The order of the sum depends on the
/// number of features alone: a row has the same bits whatever rows are beside it. One launch for any number of rows; each
/// byte of them is read once and written once.
#[derive(Debug)]
pub struct Plan<T> {
    hidden: usize,
    eps: f32,
    plain: Launch,
    add: Launch,
    element: PhantomData<T>,
}

impl<T: Element + Pod> Plan<T> {
    /// Plans norms of rows of `hidden` features; `eps` is added to the mean of the squares.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another type, for a number of features that is 0, no multiple of 8 or beyond 65536,
    /// and for an `eps` that is negative or no number, [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, hidden: usize, eps: f32) -> Result<Self> {
        let dtype = match check::dtype::<T>() {
            Dtype::F32 => return Err(check::sixteen_bits::<T>(OP)),
            dtype => dtype,
        };
        check::whole_pieces(OP, "hidden", hidden)?;
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::invalid(OP, "eps", "a number of at least 0", eps));
        }
        let launch = |add| {
            let kernel = u32::try_from(hidden).ok().and_then(|hidden| kernel::rms_norm(dtype, add, hidden));
            let kernel = kernel.ok_or_else(|| {
                let expected = format_args!("at most {} on a device", RMS_NORM_WIDE.max_hidden()).to_string();
                Error::invalid(OP, "hidden", expected, hidden)
            })?;
            Launch::new(context, OP, &kernel.kernel, [0, 1, 1], ["the number of rows", "", ""])
        };
        Ok(Self { hidden, eps, plain: launch(false)?, add: launch(true)?, element: PhantomData })
    }

    /// Queues the norm of as many rows as there are.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `x` | `[rows, 1, hidden]` | `T` |
    /// | `weight` | `[hidden]` | `T` |
    /// | `out` | `[rows, 1, hidden]` | `T` |
    /// | `not_finite` | `[1]` | `u32` |
    ///
    /// Rows start at multiples of 16 bytes. `not_finite` is lowered to `first_token + row` of the first row whose `x` holds
    /// a NaN or an infinity; start it at `u32::MAX`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device, [`Error::TooLarge`] for tokens beyond `u32`.
    pub fn run(
        &self,
        stream: &Stream,
        x: &DeviceView<T>,
        weight: &DeviceBuffer<T>,
        out: &mut DeviceViewMut<T>,
        first_token: u32,
        not_finite: Option<&mut DeviceBuffer<u32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.plain.context();
        let [rows, ..] = x.shape();
        let x = arg("x").view(context, x, [rows, 1, self.hidden])?;
        let (weight, out, not_finite) = self.check(stream, rows, weight, out, not_finite.as_deref())?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), rows, x, weight, out, first_token, not_finite) }
    }

    /// Queues the addition of `branch` to `x`, and the norm of the sum: one launch.
    ///
    /// As [`Plan::run`], with `x` and `branch` `[rows, 1, hidden]`. `x` becomes the sum, rounded, which is what the norm
    /// and `not_finite` see.
    ///
    /// # Errors
    /// As [`Plan::run`].
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    pub fn run_add(
        &self,
        stream: &Stream,
        x: &mut DeviceViewMut<T>,
        branch: &DeviceView<T>,
        weight: &DeviceBuffer<T>,
        out: &mut DeviceViewMut<T>,
        first_token: u32,
        not_finite: Option<&mut DeviceBuffer<u32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.add.context();
        let [rows, ..] = x.shape();
        let x = arg("x").view_mut(context, x, [rows, 1, self.hidden])?;
        let branch = arg("branch").view(context, branch, [rows, 1, self.hidden])?;
        let (weight, out, not_finite) = self.check(stream, rows, weight, out, not_finite.as_deref())?;
        // SAFETY: as in `run`.
        unsafe { self.run_add_raw(stream.raw(), rows, x, branch, weight, out, first_token, not_finite) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked; head strides are not used. `out` may
    /// be `x`; `not_finite` may be null.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: tensors and lists hold `rows` rows of what [`Plan::run`] says.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, tokens beyond `u32`, and what the driver reports.
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        rows: usize,
        x: RawTensor,
        weight: DevicePtr,
        out: RawTensor,
        first_token: u32,
        not_finite: DevicePtr,
    ) -> Result<()> {
        let params = self.params(rows, &x, None, weight, &out, first_token)?;
        // SAFETY: the caller's promise.
        unsafe { self.plain.with_rows(rows)?.run(stream, [x.ptr, weight, out.ptr, not_finite], &params) }
    }

    /// As [`Plan::run_add`], on addresses and a stream of any owner; see [`Plan::run_raw`]. `out` may be `branch`, and not
    /// `x`.
    ///
    /// # Safety
    /// As for [`Plan::run_raw`].
    ///
    /// # Errors
    /// As for [`Plan::run_raw`].
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    pub unsafe fn run_add_raw(
        &self,
        stream: RawStream,
        rows: usize,
        x: RawTensor,
        branch: RawTensor,
        weight: DevicePtr,
        out: RawTensor,
        first_token: u32,
        not_finite: DevicePtr,
    ) -> Result<()> {
        let params = self.params(rows, &x, Some(&branch), weight, &out, first_token)?;
        let pointers = [x.ptr, branch.ptr, weight, out.ptr, not_finite];
        // SAFETY: the caller's promise.
        unsafe { self.add.with_rows(rows)?.run(stream, pointers, &params) }
    }

    fn params(
        &self,
        rows: usize,
        x: &RawTensor,
        branch: Option<&RawTensor>,
        weight: DevicePtr,
        out: &RawTensor,
        first_token: u32,
    ) -> Result<RmsNormParams> {
        let arg = |name| Arg { op: OP, name };
        arg("weight").aligned(weight)?;
        check::to_u32(OP, "first_token + rows", (first_token as usize).saturating_add(rows))?;
        Ok(RmsNormParams {
            x_row_bytes: arg("x").row_bytes::<T>(x)?,
            branch_row_bytes: branch.map_or(Ok(0), |branch| arg("branch").row_bytes::<T>(branch))?,
            out_row_bytes: arg("out").row_bytes::<T>(out)?,
            hidden: self.hidden as u32,
            eps: self.eps,
            first_token,
            reserved: 0,
        })
    }

    fn check(
        &self,
        stream: &Stream,
        rows: usize,
        weight: &DeviceBuffer<T>,
        out: &DeviceViewMut<T>,
        not_finite: Option<&DeviceBuffer<u32>>,
    ) -> Result<(DevicePtr, RawTensor, DevicePtr)> {
        let arg = |name| Arg { op: OP, name };
        let context = self.plain.context();
        arg("stream").stream(context, stream)?;
        let weight = arg("weight").list(context, Some(weight), [self.hidden])?;
        let out = arg("out").view_mut(context, out, [rows, 1, self.hidden])?;
        Ok((weight, out, arg("not_finite").list(context, not_finite, [1])?))
    }
}
