//! Attention over the diagonals and columns of an index.

use std::marker::PhantomData;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result, Seqlens};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::VerticalSlashParams;

use super::{DeviceVerticalSlashIndex, OP, RawVerticalSlashIndex};
use crate::attention::{AttentionCall, Tensors};
use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::q_tiles;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

/// Attention over a ragged batch, planned for one shape and run with any index: a tile of 64 query rows reads the key tiles
/// and single columns that [`lacuna_core::VerticalSlashIndex`] lists for it, under the causal mask. One launch.
///
/// What is computed, and how exactly, is said by [`crate::dense_attention::Plan`]. Keys come in one order: tiles ascending,
/// columns 64 at a time as soon as there are as many, the rest at the end.
#[derive(Debug)]
pub struct AttentionPlan<T> {
    call: AttentionCall,
    num_heads: usize,
    seqlens: Seqlens,
    launch: Launch,
    tiles: DeviceBuffer<u8>,
    params: VerticalSlashParams,
    element: PhantomData<T>,
}

impl<T: Element> AttentionPlan<T> {
    /// Plans calls of `shape`, and uploads the table of tiles.
    ///
    /// # Errors
    /// As [`crate::dense_attention::Plan::new`], and [`Error::InvalidArgument`] for options that are not causal.
    pub fn new(context: &Context, shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        if !options.causal {
            return Err(Error::invalid(OP, "causal", true, false));
        }
        let kernel = u32::try_from(shape.head_dim)
            .ok()
            .and_then(|head_dim| kernel::vertical_slash(check::dtype::<T>(), head_dim))
            .ok_or_else(|| check::no_kernel::<T>(OP, shape.head_dim))?;
        let call = AttentionCall::new(OP, shape, options)?;
        let tiles = q_tiles::longest_first(OP, shape, kernel.tile.tile_m as usize, true)?;
        let seqlens = &shape.seqlens;
        let lists = seqlens.batch().saturating_mul(shape.num_heads);
        check::to_u32(OP, "the number of heads of all sequences", lists)?;
        let table = q_tiles::sparse_table(seqlens, &tiles, |tile| [tile.b * shape.num_heads, 1]);
        Ok(Self {
            launch: call.launch(context, &kernel.kernel, shape, tiles.len())?,
            tiles: DeviceBuffer::from_host(context, &table, "vertical_slash tiles")?,
            params: VerticalSlashParams {
                attention: call.params(shape, options, 0)?,
                column_step: 0,
                slash_step: 0,
            },
            call,
            num_heads: shape.num_heads,
            seqlens: seqlens.clone(),
            element: PhantomData,
        })
    }

    /// Queues the computation of `out`, and of `softmax_lse` if it is asked for, from the keys of `index` alone. Shapes and
    /// alignment are as for [`crate::dense_attention::Plan::run`].
    ///
    /// # Errors
    /// As there, and [`Error::InvalidArgument`] for an index of another shape or device.
    pub fn run(
        &self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
        index: &DeviceVerticalSlashIndex,
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let context = self.launch.context();
        Arg { op: OP, name: "stream" }.stream(context, stream)?;
        index.check(context, self.num_heads, &self.seqlens)?;
        let (tensors, lse) = self.call.check(context, q, k, v, out, softmax_lse.as_deref())?;
        // SAFETY: tensors and index have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.launch_on(stream.raw(), &tensors, &index.raw(), lse) }
    }

    /// As [`AttentionPlan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]. Besides, the arrays of `index` hold a row for every (sequence, query
    /// head), no count is above its step, and nothing writes them until the work is done. Entries that are not as
    /// [`RawVerticalSlashIndex`] says give other keys, but never any outside their sequence.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        v: RawTensor,
        index: &RawVerticalSlashIndex,
        out: RawTensor,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(stream, &Tensors { q, k, v, out }, index, softmax_lse) }
    }

    unsafe fn launch_on(
        &self,
        stream: RawStream,
        tensors: &Tensors,
        index: &RawVerticalSlashIndex,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        let params = VerticalSlashParams {
            attention: tensors.strides::<T>(OP, &self.params.attention)?,
            column_step: index.column_step,
            slash_step: index.slash_step,
        };
        let Tensors { q, k, v, out } = tensors;
        let tensors = [q.ptr, k.ptr, v.ptr, out.ptr, softmax_lse, self.tiles.ptr()];
        let lists = [index.columns, index.column_counts, index.slashes, index.slash_counts];
        let mut pointers = [DevicePtr::NULL; 10];
        pointers[..6].copy_from_slice(&tensors);
        pointers[6..].copy_from_slice(&lists);
        // SAFETY: the caller's promise for tensors and lists; the table is the plan's.
        unsafe { self.launch.run(stream, pointers, &params) }
    }
}
