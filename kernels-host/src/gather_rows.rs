//! Rows of a tensor by index.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{Element, Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{GatherRowsParams, Strides};
use lacuna_kernels_gpu::tile_size::{GATHER_ROWS_PER_THREAD, GATHER_THREADS};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "gather_rows";

/// Copies rows by index: `out[i] = src[index[i]]` along the token axis, for all heads. With the indices that a top-k left on
/// the device, keys and values of the chosen tokens become a dense cache.
///
/// Elements are of 16 bits or `f32`; rows of a head are whole multiples of 16 bytes, up to 4096. A row whose index lies
/// beyond the source becomes zeros, and nothing is read for it. Rows of `out` from the count on are left as they are.
#[derive(Debug)]
pub struct Plan<T> {
    tokens: usize,
    heads: usize,
    head_dim: usize,
    max_rows: usize,
    launch: Launch,
    params: GatherRowsParams,
    element: PhantomData<T>,
}

/// How many rows a call gathers.
#[derive(Debug, Clone, Copy)]
pub enum Count<'a> {
    /// As many as the output holds.
    All,
    /// So many; at most as the output holds.
    Rows(usize),
    /// As many as this element of a list in device memory says, at most as the output holds.
    OnDevice(&'a DeviceBuffer<u32>, usize),
}

impl<T: Element + Pod> Plan<T> {
    /// Plans copies of up to `max_rows` rows of a source `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for rows of a head that are no multiple of 16 bytes up to 4096, [`Error::TooLarge`] for
    /// sizes that a launch does not hold, [`Error::Device`] for what the device refuses.
    pub fn new(
        context: &Context,
        tokens: usize,
        heads: usize,
        head_dim: usize,
        max_rows: usize,
    ) -> Result<Self> {
        let bytes = head_dim.saturating_mul(size_of::<T>());
        let pieces = bytes / 16;
        if pieces == 0 || !bytes.is_multiple_of(16) || pieces > GATHER_THREADS as usize {
            let expected = "a multiple of 16 bytes, from 16 to 4096, on a device";
            return Err(Error::invalid(OP, "head_dim", expected, format_args!("{head_dim} of {}", T::DTYPE)));
        }
        let per_cta = (GATHER_THREADS / pieces as u32 * GATHER_ROWS_PER_THREAD) as usize;
        let none = Strides { token: 0, head: 0 };
        Ok(Self {
            tokens,
            heads,
            head_dim,
            max_rows,
            launch: Launch::new(
                context,
                OP,
                &kernel::gather_rows().kernel,
                [max_rows.div_ceil(per_cta), heads, 1],
                ["max_rows", "heads", ""],
            )?,
            params: GatherRowsParams {
                src: none,
                out: none,
                rows: check::to_u32(OP, "max_rows", max_rows)?,
                tokens: check::to_u32(OP, "tokens", tokens)?,
                pieces: pieces as u32,
                reserved: 0,
            },
            element: PhantomData,
        })
    }

    /// Queues the copy: one launch.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `src` | `[tokens, heads, head_dim]` | `T` |
    /// | `index` | at least `max_rows` entries, of which those below the count are read | `u32` |
    /// | `out` | `[max_rows, heads, head_dim]` | `T` |
    ///
    /// Addresses and strides are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device, for an index list that is too short, and for a count out of range.
    pub fn run(
        &self,
        stream: &Stream,
        src: &DeviceView<T>,
        index: &DeviceBuffer<u32>,
        count: Count,
        out: &mut DeviceViewMut<T>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        arg("index").device(context, index.driver())?;
        let src = arg("src").view(context, src, [self.tokens, self.heads, self.head_dim])?;
        let out = arg("out").view_mut(context, out, [self.max_rows, self.heads, self.head_dim])?;
        if index.len() < self.max_rows {
            let expected = format!("at least {} entries", self.max_rows);
            return Err(Error::invalid(OP, "index", expected, index.len()));
        }
        let (rows, count) = match count {
            Count::All => (self.max_rows, DevicePtr::NULL),
            Count::Rows(rows) if rows <= self.max_rows => (rows, DevicePtr::NULL),
            Count::Rows(rows) => {
                let expected = format!("at most {}", self.max_rows);
                return Err(Error::invalid(OP, "count", expected, rows));
            }
            Count::OnDevice(list, at) => {
                arg("count").device(context, list.driver())?;
                if at >= list.len() {
                    let expected = format!("an element of a list of {}", list.len());
                    return Err(Error::invalid(OP, "count", expected, at));
                }
                (self.max_rows, list.ptr().offset(at * size_of::<u32>()))
            }
        };
        // SAFETY: the tensors have the plan's shape and lie on its device, and so do list and count; buffers live until
        // queued work is done.
        unsafe { self.launch_on(stream.raw(), src, index.ptr(), rows as u32, count, out) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. `count` is the address of a `u32`, or null for `max_rows`.
    /// Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: `src`, `out` and `index` hold what [`Plan::run`] says.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        src: RawTensor,
        index: DevicePtr,
        count: DevicePtr,
        out: RawTensor,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(stream, src, index, self.params.rows, count, out) }
    }

    unsafe fn launch_on(
        &self,
        stream: RawStream,
        src: RawTensor,
        index: DevicePtr,
        rows: u32,
        count: DevicePtr,
        out: RawTensor,
    ) -> Result<()> {
        let in_bytes = |name, tensor: &RawTensor| -> Result<Strides> {
            let Strides { token, head } = Arg { op: OP, name }.raw::<T>(tensor)?;
            let size = size_of::<T>() as u64;
            Ok(Strides { token: token * size, head: head * size })
        };
        let params = GatherRowsParams {
            src: in_bytes("src", &src)?,
            out: in_bytes("out", &out)?,
            rows,
            ..self.params
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch.run(stream, [src.ptr, index, count, out.ptr], &params) }
    }
}
