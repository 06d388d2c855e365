//! The gate of the MLP.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{Element, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::SiluMulParams;
use lacuna_kernels_gpu::tile_size::SILU_MUL_THREADS;

use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::RawStream;
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "silu_mul";

/// `out = silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`, for rows that hold the gate, then `up`.
///
/// Elements are bf16 or f16, and as many per row as a multiple of 8. In `f32`, rounded once; no exponential overflows, and a
/// NaN stays one. One launch for any number of rows; each byte is read once and written once.
#[derive(Debug)]
pub struct Plan<T> {
    intermediate: usize,
    launch: Launch,
    element: PhantomData<T>,
}

impl<T: Element + Pod> Plan<T> {
    /// Plans gates of `intermediate` features.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for another type, and for a number of features that is 0 or no multiple of 8,
    /// [`Error::TooLarge`](lacuna_core::Error::TooLarge) for one that a launch does not hold, [`Error::Device`](lacuna_core::Error::Device) for what the device refuses.
    pub fn new(context: &Context, intermediate: usize) -> Result<Self> {
        let kernel =
            kernel::silu_mul(check::dtype::<T>()).ok_or_else(|| check::sixteen_bits::<T>(OP))?.kernel;
        check::whole_pieces(OP, "intermediate", intermediate)?;
        check::to_u32(OP, "intermediate", intermediate)?;
        let what = ["the number of rows", "intermediate", ""];
        let tiles = (intermediate / 8).div_ceil(SILU_MUL_THREADS as usize);
        let launch = Launch::new(context, OP, &kernel, [0, tiles, 1], what)?;
        Ok(Self { intermediate, launch, element: PhantomData })
    }

    /// Queues the gate of as many rows as there are.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `gate_up` | `[rows, 1, 2 * intermediate]`, the gate first | `T` |
    /// | `out` | `[rows, 1, intermediate]` | `T` |
    ///
    /// Rows start at multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](lacuna_core::Error::ShapeMismatch) where a tensor does not fit the plan, [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for one that is not
    /// aligned or lies on another device, [`Error::TooLarge`](lacuna_core::Error::TooLarge) for more than 2^31 - 1 rows.
    pub fn run(&self, stream: &Stream, gate_up: &DeviceView<T>, out: &mut DeviceViewMut<T>) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let [rows, ..] = gate_up.shape();
        let gate_up = arg("gate_up").view(context, gate_up, [rows, 1, 2 * self.intermediate])?;
        let out = arg("out").view_mut(context, out, [rows, 1, self.intermediate])?;
        // SAFETY: both have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), rows, gate_up, out) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked; head strides are not used.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: both tensors hold `rows` rows of what [`Plan::run`] says.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, too many rows, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        rows: usize,
        gate_up: RawTensor,
        out: RawTensor,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let params = SiluMulParams {
            gate_up_row_bytes: arg("gate_up").row_bytes::<T>(&gate_up)?,
            out_row_bytes: arg("out").row_bytes::<T>(&out)?,
            pieces: (self.intermediate / 8) as u32,
            reserved: 0,
        };
        let launch = self.launch.with_rows(rows)?;
        // SAFETY: the caller's promise.
        unsafe { launch.run(stream, [gate_up.ptr, out.ptr], &params) }
    }
}
