//! Mean pooling of blocks of tokens.

use std::marker::PhantomData;

use lacuna_core::{Element, Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{BlockPoolParams, Params, PoolSequence, Strides};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "block_pool";

/// The mean over each block of `block_size` tokens of each sequence; the last block of a sequence is divided by the tokens it
/// has.
///
/// Sequence `b` owns tokens `cu_seqlens[b]..cu_seqlens[b + 1]` of `x`, `[tokens, heads, head_dim]`. The means are `f32`,
/// `[sequence][head][block][head_dim]`: unlike on the host, the blocks of a head lie one behind the other. [`Plan::row`] says
/// where.
///
/// `T` is `bf16` or `f16`, the head dim 64 or 128. Sums are `f32`, in an order that depends on the head dim alone. A mean is not
/// finite when a token of its block is not.
#[derive(Debug)]
pub struct Plan<T> {
    x: [usize; 3],
    /// Sequence by sequence: blocks before it, of one head, and its own.
    blocks: Vec<[usize; 2]>,
    launch: Launch,
    sequences: DeviceBuffer<u8>,
    params: BlockPoolParams,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans the pooling of sequences, and uploads the table of these.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `block_size` 0, `cu_seqlens` that do not ascend from 0, and a type or head dim that the
    /// kernels do not take, [`Error::TooLarge`] for sizes that a launch does not hold, [`Error::Device`] for what the
    /// device refuses.
    pub fn new(
        context: &Context,
        cu_seqlens: &[u32],
        heads: usize,
        head_dim: usize,
        block_size: usize,
    ) -> Result<Self> {
        if block_size == 0 {
            return Err(Error::invalid(OP, "block_size", "at least 1", block_size));
        }
        if cu_seqlens.first() != Some(&0) || cu_seqlens.windows(2).any(|w| w[0] > w[1]) {
            let got = format_args!("{cu_seqlens:?}").to_string();
            return Err(Error::invalid(OP, "cu_seqlens", "ascending from 0", got));
        }
        let no_kernel = || check::no_kernel::<T>(OP, head_dim);
        let dim = u32::try_from(head_dim).map_err(|_| no_kernel())?;
        let kernel = kernel::block_pool(check::dtype::<T>(), dim).ok_or_else(no_kernel)?;
        let (mut blocks, mut table, mut first_block) = (Vec::new(), Vec::new(), 0);
        for window in cu_seqlens.windows(2) {
            let len = window[1] - window[0];
            let entry = PoolSequence {
                start: window[0],
                len,
                first_block: check::to_u32(OP, "the number of blocks", first_block)?,
            };
            table.extend_from_slice(entry.as_bytes());
            let own = (len as usize).div_ceil(block_size);
            blocks.push([first_block, own]);
            first_block += own;
        }
        // The kernels number the means in 32 bits.
        check::to_u32(OP, "the number of blocks of all heads", first_block.saturating_mul(heads))?;
        let longest = blocks.iter().map(|&[_, own]| own).max().unwrap_or(0);
        // `last` is not empty: it begins with 0.
        let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
        Ok(Self {
            x: [tokens, heads, head_dim],
            launch: Launch::new(
                context,
                OP,
                &kernel.kernel,
                [longest, heads, blocks.len()],
                ["the number of blocks of a sequence", "the number of heads", "the batch"],
            )?,
            blocks,
            sequences: DeviceBuffer::from_host(context, &table, "block_pool sequences")?,
            params: BlockPoolParams {
                x: Strides { token: 0, head: 0 },
                heads: check::to_u32(OP, "the number of heads", heads)?,
                // Blocks longer than any sequence are as good as those.
                block: u32::try_from(block_size).unwrap_or(u32::MAX),
            },
            element: PhantomData,
        })
    }

    /// Elements of the means.
    pub fn pooled_len(&self) -> usize {
        let [_, heads, head_dim] = self.x;
        self.blocks.last().map_or(0, |&[first, own]| (first + own) * heads * head_dim)
    }

    /// Where the means of block 0 of a head begin, in rows of `head_dim`; the next blocks follow. Their number beside it.
    ///
    /// # Panics
    /// When there is no sequence `b`.
    pub fn row(&self, b: usize, head: usize) -> (usize, usize) {
        let [first, own] = self.blocks[b];
        (first * self.x[1] + head * own, own)
    }

    /// Queues the computation of `pooled`, [`Plan::pooled_len`] elements, from `x`, `[tokens, heads, head_dim]`. Addresses and
    /// strides are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device.
    pub fn run(&self, stream: &Stream, x: &DeviceView<T>, pooled: &mut DeviceBuffer<f32>) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        arg("stream").stream(context, stream)?;
        let x = arg("x").view(context, x, self.x)?;
        let pooled = arg("pooled").list(context, Some(pooled), [self.pooled_len()])?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), x, pooled) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]; `pooled` holds [`Plan::pooled_len`] elements.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(&self, stream: RawStream, x: RawTensor, pooled: DevicePtr) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let params = BlockPoolParams { x: arg("x").raw::<T>(&x)?, ..self.params };
        arg("pooled").aligned(pooled)?;
        // SAFETY: the caller's promise for the tensors; the table is the plan's.
        unsafe { self.launch.run(stream, [x.ptr, pooled, self.sequences.ptr()], &params) }
    }
}
