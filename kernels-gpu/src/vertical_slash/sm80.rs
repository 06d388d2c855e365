//! Kernels for compute capability 8.0 and later.

use super::walk::{List, MixedTiles, OUTSIDE, Warp};
use crate::arch::shared::{dynamic_smem, st_shared_b32};
use crate::arch::special_register::{cta, thread};
use crate::arch::{shuffle, vote};
use crate::element::{Bf16, Element, F16};
use crate::forward::{RowTile, Rows, Tensors, assert_fragments, forward};
use crate::params::{SparseQTile, VerticalSlashParams};
use crate::tile_size::{COLUMN_RING, WARP, vertical_slash};

/// A warp of the device, the ring of its CTA behind the `RING` bytes of the tiles. All its methods are called by all lanes
/// together.
struct DeviceWarp<const RING: u32>;

impl<const RING: u32> DeviceWarp<RING> {
    #[inline(always)]
    fn lane() -> u32 {
        thread() % WARP
    }
}

impl<const RING: u32> Warp for DeviceWarp<RING> {
    type Chunk = u32;

    #[inline(always)]
    unsafe fn load(&self, list: List, position: impl Fn(u32) -> u32) -> u32 {
        let at = position(Self::lane());
        // SAFETY: the caller's.
        if at < list.len { unsafe { list.entries.add(at as usize).read() } } else { OUTSIDE }
    }

    #[inline(always)]
    fn below(&self, chunk: u32, limit: u32) -> u32 {
        // SAFETY: all lanes come here.
        unsafe { vote::ballot(chunk < limit) }
    }

    #[inline(always)]
    fn get(&self, chunk: u32, lane: u32) -> u32 {
        // SAFETY: all lanes come here.
        unsafe { shuffle::idx(chunk, lane) }
    }

    #[inline(always)]
    fn append(&mut self, chunk: u32, lanes: u32, place: u32) {
        let (thread, bit) = (thread(), 1 << Self::lane());
        // All warps come to the same columns: the first writes for them.
        if thread < WARP && lanes & bit != 0 {
            let place = place + (lanes & (bit - 1)).count_ones();
            // SAFETY: inside the ring. What other warps may still read lies elsewhere in it, and they read this after a
            // barrier.
            unsafe { st_shared_b32(self.address(place % COLUMN_RING), chunk) };
        }
    }

    #[inline(always)]
    fn address(&self, place: u32) -> u32 {
        dynamic_smem() + RING + place * 4
    }
}

#[inline(always)]
unsafe fn mixed<E: Element, const MT: usize, const NT: usize, const DT: usize, const RING: u32>(
    tensors: Tensors,
    tiles: *const SparseQTile,
    columns: *const u32,
    column_counts: *const u32,
    slashes: *const u32,
    slash_counts: *const u32,
    params: VerticalSlashParams,
) {
    const { assert_fragments(vertical_slash(DT as u32 * 8), MT, NT, DT) };
    const { assert!(RING == vertical_slash(DT as u32 * 8).unwrap().smem_bytes()) };
    let VerticalSlashParams { attention: params, column_step, slash_step } = params;
    let [group_head, tile, head_k] = cta();
    let head = head_k * params.head_step_k + group_head * params.head_step;
    // SAFETY: the grid has a tile of the table for every CTA; the lists have a row for it and every head.
    let (rows, columns, slashes) = unsafe {
        let entry = tiles.add(tile as usize).read();
        let SparseQTile { q_start, q_len, k_start, k_len, row, mask_row, mask_row_step } = entry;
        let list = (mask_row + head * mask_row_step) as usize;
        let columns =
            List { entries: columns.add(list * column_step as usize), len: column_counts.add(list).read() };
        let slashes =
            List { entries: slashes.add(list * slash_step as usize), len: slash_counts.add(list).read() };
        (Rows { q_start, q_len, k_start, k_len, row }, columns, slashes)
    };
    let tile_m = (64 * MT) as u32;
    let end = (rows.row + tile_m + rows.k_len) as i32 - rows.q_len as i32;
    let tile = RowTile::new(tensors, rows, head, head_k, &params);
    // SAFETY: all threads of the CTA come here; the launcher has checked what it passed.
    unsafe {
        let warp = DeviceWarp::<RING>;
        let key_tiles = MixedTiles::new(warp, columns, slashes, end, tile.key_limit(tile_m));
        forward::<E, _, MT, NT, DT>(&tile, key_tiles)
    }
}

macro_rules! vertical_slash {
    ($($name:ident: $element:ty, $mt:literal, $nt:literal, $dt:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                k: u64,
                v: u64,
                out: u64,
                softmax_lse: u64,
                tiles: *const SparseQTile,
                columns: *const u32,
                column_counts: *const u32,
                slashes: *const u32,
                slash_counts: *const u32,
                params: VerticalSlashParams,
            ) {
                let tensors = Tensors { q, k, v, out, softmax_lse };
                // SAFETY: see `crate::kernel`.
                unsafe {
                    mixed::<$element, $mt, $nt, $dt, { (64 * $mt + 16 * $nt) * $dt * 16 }>(
                        tensors, tiles, columns, column_counts, slashes, slash_counts, params,
                    )
                }
            }
        }
    )*};
}

vertical_slash! {
    vertical_slash_bf16_d64: Bf16, 1, 8, 8;
    vertical_slash_bf16_d128: Bf16, 1, 8, 16;
    vertical_slash_f16_d64: F16, 1, 8, 8;
    vertical_slash_f16_d128: F16, 1, 8, 16;
}
