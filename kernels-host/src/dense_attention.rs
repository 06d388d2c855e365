//! Dense attention: every query row reads all keys that the causal mask leaves.

use std::marker::PhantomData;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::{AttentionParams, Params, QTile};

use crate::attention::{AttentionCall, Tensors};
use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::q_tiles;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "dense_attention";

/// Dense attention over a ragged batch, planned for one shape and run any number of times.
///
/// ```text
/// out[i] = sum_j softmax_j(softmax_scale * q[i] . k[j]) v[j]        over the keys j that row i sees
/// lse[i] = ln sum_j exp(softmax_scale * q[i] . k[j])
/// ```
///
/// `T` is `bf16` or `f16`, the head dim 64 or 128. The plan knows the lengths: it holds a table of query tiles on the
/// device, those with the most keys first.
///
/// # Numerics
/// Products of 16-bit elements are accumulated in `f32`; the softmax is `f32`, in base 2; its weights are rounded to `T`
/// before they meet the values. A row's bits depend on its own sequence alone, not on the batch around it.
///
/// A row that sees no key gives zeros and an LSE of `-inf`. Keys and values that a row does not see never reach it, be
/// they NaN.
///
/// # Examples
/// ```no_run
/// use half::bf16;
/// use lacuna_core::{AttentionOptions, AttentionShape, Layout, Seqlens, TensorView};
/// use lacuna_kernels_host::{Context, DeviceTensor, dense_attention::Plan};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let image = std::fs::read_to_string("ptx/sm_80.ptx")?;
/// # #[cfg(feature = "cuda")]
/// let context = Context::cuda(0, &[image.as_str()])?;
/// # #[cfg(not(feature = "cuda"))]
/// # let context: Context = return Ok(());
/// let shape = AttentionShape::new(4, 2, 64, Seqlens::single(100, 100)?)?;
/// let (q, kv) = (vec![bf16::ONE; 100 * 4 * 64], vec![bf16::ONE; 100 * 2 * 64]);
/// let q = DeviceTensor::from_host(&context, &TensorView::thd(&q, 100, 4, 64)?, "q")?;
/// let kv = DeviceTensor::from_host(&context, &TensorView::thd(&kv, 100, 2, 64)?, "kv")?;
/// let mut out = DeviceTensor::uninit(&context, Layout::thd(100, 4, 64), "out")?;
///
/// let plan = Plan::<bf16>::new(&context, &shape, &AttentionOptions::default())?;
/// let stream = context.default_stream();
/// plan.run(&stream, &q.view(), &kv.view(), &kv.view(), &mut out.view_mut()?, None)?;
/// assert_eq!(out.to_host(&stream)?[0], bf16::ONE);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Plan<T> {
    call: AttentionCall,
    launch: Launch,
    tiles: DeviceBuffer<u8>,
    params: AttentionParams,
    element: PhantomData<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape`, and uploads the table of tiles.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for a type, head dim or scale that the kernels do
    /// not take, [`Error::TooLarge`](lacuna_core::Error::TooLarge) for sizes that a launch does not hold,
    /// [`Error::Device`](lacuna_core::Error::Device) for what the device refuses.
    pub fn new(context: &Context, shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        let dtype = check::dtype::<T>();
        let kernel = u32::try_from(shape.head_dim)
            .ok()
            .and_then(|head_dim| kernel::dense_attention(dtype, head_dim))
            .ok_or_else(|| check::no_kernel::<T>(OP, shape.head_dim))?;
        let call = AttentionCall::new(OP, shape, options)?;
        let tiles = q_tiles::longest_first(OP, shape, kernel.tile.tile_m as usize, options.causal)?;
        let seqlens = &shape.seqlens;
        let table: Vec<u8> = tiles
            .iter()
            .flat_map(|tile| {
                let entry = QTile {
                    q_start: seqlens.cu_seqlens_q()[tile.b],
                    q_len: seqlens.seqlen_q(tile.b) as u32,
                    k_start: seqlens.cu_seqlens_k()[tile.b],
                    k_len: seqlens.seqlen_k(tile.b) as u32,
                    row: tile.row as u32,
                };
                entry.as_bytes().to_vec()
            })
            .collect();
        Ok(Self {
            launch: call.launch(context, &kernel.kernel, shape, tiles.len())?,
            tiles: DeviceBuffer::from_host(context, &table, "dense_attention tiles")?,
            params: call.params(shape, options, 0)?,
            call,
            element: PhantomData,
        })
    }

    /// Queues the computation of `out`, and of `softmax_lse` if it is asked for.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `q` | `[total_q, num_heads, head_dim]` | `T` |
    /// | `k`, `v` | `[total_k, num_heads_k, head_dim]` | `T` |
    /// | `out` | as `q` | `T` |
    /// | `softmax_lse` | `[num_heads, total_q]`, natural log | `f32` |
    ///
    /// Addresses and strides are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](lacuna_core::Error::ShapeMismatch) where a tensor does not fit the plan,
    /// [`Error::InvalidArgument`](lacuna_core::Error::InvalidArgument) for one that is not aligned or lies on another
    /// device.
    pub fn run(
        &self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        let context = self.launch.context();
        Arg { op: OP, name: "stream" }.stream(context, stream)?;
        let (tensors, lse) = self.call.check(context, q, k, v, out, softmax_lse.as_deref())?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.launch_on(stream.raw(), &tensors, lse) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// `q`, `k`, `v`, `out` and `softmax_lse` (null, or `f32 [num_heads, total_q]`) hold the elements that the plan's
    /// shape and their strides say, in memory of the plan's device, until the work is done; nothing writes the inputs or
    /// uses the outputs meanwhile; rows of `out` do not overlap. `stream` is a live stream of the device's context.
    ///
    /// What is guaranteed: no other memory is read or written, whatever the tensors hold; and the memory is not used
    /// after work that is queued later on the same stream begins.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        v: RawTensor,
        out: RawTensor,
        softmax_lse: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_on(stream, &Tensors { q, k, v, out }, softmax_lse) }
    }

    unsafe fn launch_on(&self, stream: RawStream, tensors: &Tensors, softmax_lse: DevicePtr) -> Result<()> {
        let params = tensors.strides::<T>(OP, &self.params)?;
        let Tensors { q, k, v, out } = tensors;
        let pointers = [q.ptr, k.ptr, v.ptr, out.ptr, softmax_lse, self.tiles.ptr()];
        // SAFETY: the caller's promise for the tensors; the table is the plan's.
        unsafe { self.launch.run(stream, pointers, &params) }
    }
}
