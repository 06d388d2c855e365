//! Block-sparse attention: every query block reads the key blocks that a mask lists.

use std::marker::PhantomData;

use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Element, Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::AttentionParams;

use crate::attention::{AttentionCall, Tensors};
use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::q_tiles;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

pub use crate::block_mask::DeviceBlockMask;

const OP: &str = "block_sparse_attention";

/// Block-sparse attention over a ragged batch, planned for one shape and block size and run with any mask.
///
/// What is computed, and how exactly, is said by [`crate::dense_attention::Plan`]; a row reads the listed keys only, and of
/// them those that the causal mask leaves. Blocks are multiples of 64 tokens; those of 128 queries run fastest.
#[derive(Debug)]
pub struct Plan<T> {
    call: AttentionCall,
    shape: AttentionShape,
    block_m: usize,
    block_n: usize,
    launch: Launch,
    tiles: DeviceBuffer<u8>,
    params: AttentionParams,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape` with masks of `block_m` query tokens by `block_n` key tokens, and uploads the table of tiles.
    ///
    /// # Errors
    /// As [`crate::dense_attention::Plan::new`], and
    /// [`Error::InvalidArgument`] for a block side that is no multiple of 64.
    pub fn new(
        context: &Context,
        shape: &AttentionShape,
        options: &AttentionOptions,
        block_m: usize,
        block_n: usize,
    ) -> Result<Self> {
        let dtype = check::dtype::<T>();
        for (arg, block) in [("block_m", block_m), ("block_n", block_n)] {
            if block == 0 || !block.is_multiple_of(64) || block > i32::MAX as usize {
                return Err(Error::invalid(OP, arg, "a positive multiple of 64 on a device", block));
            }
        }
        let kernel = u32::try_from(shape.head_dim)
            .ok()
            .and_then(|dim| kernel::block_sparse_attention(dtype, dim, block_m as u32, block_n as u32))
            .ok_or_else(|| check::no_kernel::<T>(OP, shape.head_dim))?;
        let call = AttentionCall::new(OP, shape, options)?;
        let tiles = q_tiles::longest_first(OP, shape, kernel.tile.tile_m as usize, options.causal)?;
        // The order of rows in the mask is the mask's business: an empty one of this shape knows it.
        let rows = BlockMask::empty(shape, block_m, block_n)?;
        check::to_u32(OP, "the number of rows of the block mask", rows.num_rows())?;
        let table = q_tiles::sparse_table(&shape.seqlens, &tiles, |tile| {
            [rows.row_index(tile.b, 0, tile.row / block_m), rows.m_blocks(tile.b)]
        });
        Ok(Self {
            launch: call.launch(context, &kernel.kernel, shape, tiles.len())?,
            tiles: DeviceBuffer::from_host(context, &table, "block_sparse_attention tiles")?,
            params: call.params(shape, options, block_n as u32)?,
            call,
            shape: shape.clone(),
            block_m,
            block_n,
            element: PhantomData,
        })
    }

    /// Queues the computation of `out`, and of `softmax_lse` if it is asked for, from the listed blocks alone. Shapes and
    /// alignment are as for [`crate::dense_attention::Plan::run`]; a row without any block is an empty row.
    ///
    /// # Errors
    /// As there, and [`Error::InvalidArgument`] for a mask of another shape.
    pub fn run(
        &self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
        block_mask: &DeviceBlockMask,
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let context = self.launch.context();
        let arg = |name| Arg { op: OP, name };
        arg("stream").stream(context, stream)?;
        block_mask.check(OP, context, &self.shape, [self.block_m, self.block_n])?;
        let (tensors, lse) = self.call.check(context, q, k, v, out, softmax_lse.as_deref())?;
        let (indptr, indices) = (block_mask.indptr(), block_mask.indices());
        // SAFETY: the tensors have the plan's shape and lie on its device, and so does the mask, whose lists are in range;
        // buffers live until queued work is done.
        unsafe { self.launch_on(stream.raw(), &tensors, indptr, indices, lse) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]. Besides, `indptr` holds one more `u32` than there are rows
    /// (sequence, then query head, then query block), ascending, and `indices` as many as its last entry says; each
    /// row's ascend strictly and stay below the number of key blocks of its sequence. They are not written until the
    /// work is done.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        v: RawTensor,
        indptr: DevicePtr,
        indices: DevicePtr,
        out: RawTensor,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(stream, &Tensors { q, k, v, out }, indptr, indices, softmax_lse) }
    }

    unsafe fn launch_on(
        &self,
        stream: RawStream,
        tensors: &Tensors,
        indptr: DevicePtr,
        indices: DevicePtr,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        let params = tensors.strides::<T>(OP, &self.params)?;
        let Tensors { q, k, v, out } = tensors;
        let pointers = [q.ptr, k.ptr, v.ptr, out.ptr, softmax_lse, self.tiles.ptr(), indptr, indices];
        // SAFETY: the caller's promise for tensors and mask; the table is the plan's.
        unsafe { self.launch.run(stream, pointers, &params) }
    }
}
