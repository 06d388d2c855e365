//! The likeliest token.

use lacuna_core::{Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::ArgmaxParams;
use lacuna_kernels_gpu::tile_size::{ARGMAX_SLICE, ARGMAX_SLICED_ROWS};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "argmax";

/// Logits of a row that the kernel counts.
const MAX_VOCAB_SIZE: usize = (1 << 30) - 1;

/// The index of the largest logit of every row, of equals (0 and -0 are equal) the lowest; `u32::MAX` for a row that holds
/// a NaN or an infinity.
///
/// The plan owns a workspace: two runs of one plan have to be on one stream, or ordered by events.
#[derive(Debug)]
pub struct Plan {
    vocab_size: usize,
    launch: Launch,
    /// Where the slices of a row meet: `[ARGMAX_SLICED_ROWS][2]`, the least so far and a ticket.
    meeting: DeviceBuffer<u64>,
}

impl Plan {
    /// Plans searches of rows of `vocab_size` logits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for rows without logits, [`Error::TooLarge`] for rows of 2^30 logits or more,
    /// [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, vocab_size: usize) -> Result<Self> {
        check_vocab_size(OP, vocab_size, MAX_VOCAB_SIZE)?;
        let meeting = [u64::MAX, 0].repeat(ARGMAX_SLICED_ROWS as usize);
        Ok(Self {
            vocab_size,
            launch: Launch::new(
                context,
                OP,
                &kernel::argmax().kernel,
                [0, 1, 1],
                ["the number of rows", "the number of slices of a row", ""],
            )?,
            meeting: DeviceBuffer::from_host(context, &meeting, "argmax meeting places")?,
        })
    }

    /// Queues the search: one launch, none for no rows.
    ///
    /// | argument | shape | holds |
    /// | --- | --- | --- |
    /// | `logits` | `[rows, 1, vocab_size]` | rows of any stride |
    /// | `out` | at least `rows` | an index for each row |
    /// | `counters` | any | each element grows by 1, wrapping, once per run of at least a row |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::InvalidArgument`] for what does not fit or lies on another device.
    pub fn run(
        &self,
        stream: &Stream,
        logits: &DeviceView<f32>,
        out: &mut DeviceBuffer<u32>,
        counters: Option<&mut DeviceBuffer<u32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        let [rows, _, _] = logits.shape();
        arg("stream").stream(context, stream)?;
        let logits = arg("logits").view(context, logits, [rows, 1, self.vocab_size])?;
        let (out, counters) = outputs(OP, context, rows, out, counters)?;
        // SAFETY: logits, indices and counters have these sizes and lie on the plan's device; buffers live until queued
        // work is done.
        unsafe { self.run_raw(stream.raw(), rows, logits, out, counters) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. `counters` are an address and how many follow it.
    ///
    /// # Safety
    /// `logits` leads to `rows` rows of `vocab_size` `f32` at its token stride, `out` to `rows` `u32`, `counters` to as
    /// many `u32` as it says, all in memory of the plan's device, multiples of 4 bytes; nothing writes the logits or uses
    /// the others until the work is done, and no other work that uses the plan's workspace runs meanwhile. `stream` is a
    /// live stream of the device.
    ///
    /// # Errors
    /// More rows than a launch holds, more than 2^32 - 1 counters, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        rows: usize,
        logits: RawTensor,
        out: DevicePtr,
        (counters, count): (DevicePtr, usize),
    ) -> Result<()> {
        let slice = if rows <= ARGMAX_SLICED_ROWS as usize { ARGMAX_SLICE as usize } else { self.vocab_size };
        let slices = self.vocab_size.div_ceil(slice);
        let params = ArgmaxParams {
            row_stride: logits.token_stride as u64,
            vocab_size: self.vocab_size as u32,
            slice: slice as u32,
            slices: check::to_u32(OP, "the number of slices of a row", slices)?,
            counters: check::to_u32(OP, "the number of counters", count)?,
        };
        // SAFETY: the caller's promise; up to as many rows as are sliced have a meeting place.
        unsafe {
            let pointers = [logits.ptr, self.meeting.ptr(), out, counters];
            self.launch.with_grid([rows, slices, 1])?.run(stream, pointers, &params)
        }
    }
}

/// Refuses vocabularies that kernels do not take.
pub(crate) fn check_vocab_size(op: &'static str, vocab_size: usize, limit: usize) -> Result<()> {
    if vocab_size == 0 {
        return Err(Error::invalid(op, "vocab_size", "at least 1", vocab_size));
    }
    if vocab_size > limit {
        let what = "the number of logits of a row";
        return Err(Error::TooLarge { op, what, limit: limit as u64, got: vocab_size.to_string() });
    }
    Ok(())
}

/// A counters' list as the raw level takes it: the address, and how many there are.
pub(crate) type Counters = (DevicePtr, usize);

/// The tokens' list and the counters, checked.
pub(crate) fn outputs(
    op: &'static str,
    context: &Context,
    rows: usize,
    out: &mut DeviceBuffer<u32>,
    counters: Option<&mut DeviceBuffer<u32>>,
) -> Result<(DevicePtr, Counters)> {
    Arg { op, name: "out" }.device(context, out.driver())?;
    if out.len() < rows {
        return Err(Error::invalid(op, "out", format!("at least {rows} elements"), out.len()));
    }
    let Some(counters) = counters else { return Ok((out.ptr(), (DevicePtr::NULL, 0))) };
    Arg { op, name: "counters" }.device(context, counters.driver())?;
    Ok((out.ptr(), (counters.ptr(), counters.len())))
}
