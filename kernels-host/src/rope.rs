//! Rotary position embedding, on the way from the projections to the queries and the KV cache.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{Element, Error, Result};
use lacuna_kernels_gpu::kernel::{self, Dtype, RopePath};
use lacuna_kernels_gpu::params::{RopeParams, Strides};
use lacuna_kernels_gpu::tile_size::{ROPE_MAX_HEAD_DIM, ROPE_THREADS, rope_heads_per_thread};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

const OP: &str = "rope";

/// Which features turn with one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `i` and `i + rotary_dim / 2` (Llama, Qwen).
    HalfSplit,
    /// `2 i` and `2 i + 1` (GLM).
    Interleaved,
}

/// The heads of a model, and what of them turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Heads of queries.
    pub num_heads: usize,
    /// Heads of keys, and as many of values.
    pub num_heads_k: usize,
    /// Features of a head: a multiple of 8, up to 1024.
    pub head_dim: usize,
    /// Features of a head that turn, the first ones: an even number up to `head_dim`. Rows of 16 bytes move whole if it is
    /// a multiple of 16 (half-split) or 8 (interleaved), and 2 bytes at a time if not.
    pub rotary_dim: usize,
    /// Which of these turn with one another.
    pub pairing: Pairing,
}

/// Where row 0 goes in the cache; the others follow.
#[derive(Debug, Clone, Copy)]
pub enum Slot<'a> {
    /// To this token.
    At(usize),
    /// To the token that this element of a list in device memory says: for graphs, where it differs from call to call.
    OnDevice(&'a DeviceBuffer<u32>, usize),
}

/// As [`Slot`], of the raw level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawSlot {
    /// To this token.
    At(usize),
    /// To the token that a `u32` says.
    OnDevice(DevicePtr),
}

/// What [`Plan::run`] takes, as the raw level takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawArgs {
    /// Tokens.
    pub rows: usize,
    /// `[rows, 1, (num_heads + 2 * num_heads_k) * head_dim]`; its head stride is not used.
    pub qkv: RawTensor,
    /// `[rows]`.
    pub position_ids: DevicePtr,
    /// `[positions, 1, rotary_dim]`; its head stride is not used.
    pub cos_sin: RawTensor,
    /// Rows of `cos_sin`.
    pub positions: usize,
    /// `[rows, num_heads, head_dim]`.
    pub q: RawTensor,
    /// `[capacity, num_heads_k, head_dim]`.
    pub k_cache: RawTensor,
    /// `[capacity, num_heads_k, head_dim]`.
    pub v_cache: RawTensor,
    /// Tokens that the caches have room for.
    pub capacity: usize,
    /// Where row 0 goes.
    pub slot: RawSlot,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of the queries and keys of a fused projection, which leaves
/// the queries in a tensor, and keys and values in the KV cache.
///
/// ```text
/// (a, b) -> (a cos - b sin, b cos + a sin)
/// ```
///
/// Elements are bf16 or f16, cosines and sines `f32` from a table. Products and sums in `f32`, each rounded, and the result
/// rounded once: the bits of the same formula on a CPU. Features that do not turn, and all of the values, keep their bits.
///
/// What only the device knows cannot be refused: a position beyond the table turns features into NaN, and a row whose place
/// lies beyond the cache leaves no keys and values. One launch for any number of rows.
#[derive(Debug)]
pub struct Plan<T> {
    shape: Shape,
    path: RopePath,
    launch: Launch,
    element: PhantomData<T>,
}

impl<T: Element + Pod> Plan<T> {
    /// Plans rotations of tokens of `shape`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another type, for no heads, and for a head dim or rotary dim that [`Shape`] excludes,
    /// [`Error::TooLarge`] for sizes that a launch does not hold, [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, shape: &Shape) -> Result<Self> {
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing } = *shape;
        if check::dtype::<T>() == Dtype::F32 {
            return Err(check::sixteen_bits::<T>(OP));
        }
        for (what, heads) in [("num_heads", num_heads), ("num_heads_k", num_heads_k)] {
            if heads == 0 {
                return Err(Error::invalid(OP, what, "at least 1", heads));
            }
        }
        check::whole_pieces(OP, "head_dim", head_dim)?;
        if head_dim > ROPE_MAX_HEAD_DIM as usize {
            let expected = format_args!("at most {ROPE_MAX_HEAD_DIM} on a device").to_string();
            return Err(Error::invalid(OP, "head_dim", expected, head_dim));
        }
        if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            let expected = format!("an even number from 2 to head_dim ({head_dim})");
            return Err(Error::invalid(OP, "rotary_dim", expected, rotary_dim));
        }
        let heads = num_heads_k.saturating_mul(2).saturating_add(num_heads);
        // The kernel holds byte offsets within a row in 32 bits.
        let row_bytes = heads.saturating_mul(head_dim).saturating_mul(size_of::<T>());
        check::to_u32(OP, "bytes of a row of qkv", row_bytes)?;
        let path = RopePath::new(pairing == Pairing::Interleaved, rotary_dim as u32);
        let kernel =
            kernel::rope(check::dtype::<T>(), path).ok_or_else(|| check::sixteen_bits::<T>(OP))?.kernel;
        let what = ["the number of rows", "the number of heads", ""];
        // A single row has the most tiles.
        let launch = Launch::new(context, OP, &kernel, [1, tiles(shape, path, 1), 1], what)?;
        Ok(Self { shape: *shape, path, launch, element: PhantomData })
    }

    /// Queues the rotation of as many tokens as `qkv` has rows.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `qkv` | `[rows, 1, (num_heads + 2 * num_heads_k) * head_dim]`: queries, keys, values | `T` |
    /// | `position_ids` | the position of row 0 is element `first_position`, the others follow | `u32` |
    /// | `cos_sin` | `[positions, 1, rotary_dim]`: `rotary_dim / 2` cosines, then as many sines | `f32` |
    /// | `q` | `[rows, num_heads, head_dim]` | `T` |
    /// | `k_cache`, `v_cache` | `[capacity, num_heads_k, head_dim]` | `T` |
    ///
    /// Addresses and strides are multiples of 16 bytes; the rows of `cos_sin` may lie any number of elements apart if half of
    /// `rotary_dim` does not divide into accesses of 16 bytes (see [`Shape`]). Tokens of the caches other than those from
    /// `slot` on are left as they are.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan or the rows, [`Error::InvalidArgument`] for one that is
    /// not aligned or lies on another device, for positions that are too few and rows that the cache has no room for,
    /// [`Error::TooLarge`] for sizes beyond `u32`.
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    pub fn run(
        &self,
        stream: &Stream,
        qkv: &DeviceView<T>,
        position_ids: &DeviceBuffer<u32>,
        first_position: usize,
        cos_sin: &DeviceView<f32>,
        q: &mut DeviceViewMut<T>,
        k_cache: &mut DeviceViewMut<T>,
        v_cache: &mut DeviceViewMut<T>,
        slot: Slot,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.launch.context();
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, .. } = self.shape;
        arg("stream").stream(context, stream)?;
        let [rows, ..] = qkv.shape();
        let qkv = arg("qkv").view(context, qkv, [rows, 1, (num_heads + 2 * num_heads_k) * head_dim])?;
        arg("position_ids").device(context, position_ids.driver())?;
        if first_position.saturating_add(rows) > position_ids.len() {
            let expected = format!("at least {rows} from {first_position} on");
            return Err(Error::invalid(OP, "position_ids", expected, position_ids.len()));
        }
        let [positions, ..] = cos_sin.shape();
        let [capacity, ..] = k_cache.shape();
        let raw = RawArgs {
            rows,
            qkv,
            position_ids: position_ids.ptr().offset(first_position * size_of::<u32>()),
            cos_sin: arg("cos_sin").view(context, cos_sin, [positions, 1, rotary_dim])?,
            positions,
            q: arg("q").view_mut(context, q, [rows, num_heads, head_dim])?,
            k_cache: arg("k_cache").view_mut(context, k_cache, [capacity, num_heads_k, head_dim])?,
            v_cache: arg("v_cache").view_mut(context, v_cache, [capacity, num_heads_k, head_dim])?,
            capacity,
            slot: match slot {
                Slot::At(slot) => RawSlot::At(slot),
                Slot::OnDevice(list, at) => {
                    arg("slot").device(context, list.driver())?;
                    if at >= list.len() {
                        let expected = format!("an element of a list of {}", list.len());
                        return Err(Error::invalid(OP, "slot", expected, at));
                    }
                    RawSlot::OnDevice(list.ptr().offset(at * size_of::<u32>()))
                }
            },
        };
        // SAFETY: the tensors have the plan's shape and lie on its device, and so do the lists; buffers live until queued
        // work is done.
        unsafe { self.run_raw(stream.raw(), &raw) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked, and that a slot which is known leaves
    /// room.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: tensors and lists hold what [`RawArgs`] says.
    ///
    /// # Errors
    /// As [`Plan::run`], and what the driver reports.
    pub unsafe fn run_raw(&self, stream: RawStream, args: &RawArgs) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing } = self.shape;
        let (slot, slot_ptr) = match args.slot {
            RawSlot::OnDevice(ptr) => (0, ptr),
            RawSlot::At(slot) if slot.saturating_add(args.rows) <= args.capacity => (slot, DevicePtr::NULL),
            RawSlot::At(slot) => {
                let expected = format!("at most {} less {} rows", args.capacity, args.rows);
                return Err(Error::invalid(OP, "slot", expected, slot));
            }
        };
        let cos_sin_row_bytes = match self.path {
            RopePath::Pairs => (args.cos_sin.token_stride * size_of::<f32>()) as u64,
            _ => arg("cos_sin").row_bytes::<f32>(&args.cos_sin)?,
        };
        let strides = |name, tensor| -> Result<Strides> { arg(name).raw::<T>(tensor) };
        let params = RopeParams {
            qkv_row_bytes: arg("qkv").row_bytes::<T>(&args.qkv)?,
            cos_sin_row_bytes,
            q: strides("q", &args.q)?,
            k: strides("k_cache", &args.k_cache)?,
            v: strides("v_cache", &args.v_cache)?,
            positions: check::to_u32(OP, "rows of cos_sin", args.positions)?,
            slot: check::to_u32(OP, "slot", slot)?,
            capacity: check::to_u32(OP, "the capacity of the cache", args.capacity)?,
            num_heads: num_heads as u32,
            num_heads_k: num_heads_k as u32,
            head_dim: head_dim as u32,
            rotary_dim: rotary_dim as u32,
            interleaved: (pairing == Pairing::Interleaved) as u32,
            side_by_side: ROPE_THREADS / self.path.units(head_dim as u32).min(ROPE_THREADS),
            heads_per_thread: rope_heads_per_thread(args.rows),
        };
        let pointers = [
            args.qkv.ptr,
            args.position_ids,
            slot_ptr,
            args.cos_sin.ptr,
            args.q.ptr,
            args.k_cache.ptr,
            args.v_cache.ptr,
        ];
        let launch = self.launch.with_grid([args.rows, tiles(&self.shape, self.path, args.rows), 1])?;
        // SAFETY: the caller's promise.
        unsafe { launch.run(stream, pointers, &params) }
    }
}

/// CTAs of a token, in a launch of `rows` of them.
fn tiles(shape: &Shape, path: RopePath, rows: usize) -> usize {
    let heads = shape.num_heads + 2 * shape.num_heads_k;
    let units = path.units(shape.head_dim as u32);
    match path {
        RopePath::Pairs => (heads * units as usize).div_ceil(ROPE_THREADS as usize),
        _ => heads.div_ceil((ROPE_THREADS / units * rope_heads_per_thread(rows)) as usize),
    }
}
