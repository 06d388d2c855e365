//! Products of up to 8 rows: the weight passes by once, and that is all there is to do.
//!
//! The weight is operand A, 16 of its rows, and the rows of `x` are operand B: 8 of them, zeros where there are fewer. The
//! four warps of a CTA share the features in steps of 64, each every fourth step, and have nothing to do with one another
//! before the end: no barrier holds up the copies of a warp.

use core::ops::Range;

use crate::arch::barrier;
use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group, cp_async_wait_group};
use crate::arch::global::{ld_global_b16, st_global_b16, st_global_b32};
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::shared::{dynamic_smem, ld_shared_f32, st_shared_v2_f32};
use crate::arch::special_register::cta;
use crate::element::Element;
use crate::forward::{Thread, fragment};
use crate::params::GemmParams;
use crate::smem::{STRIP_ROW_BYTES, chunk_offset, rows_then_columns, step_columns};
use crate::tile_size::{ELEMENT_BYTES, GEMM_8X16, GEMM_TILE_K, GemmTile, WARP};

use super::Tensors;

const TILE: GemmTile = GEMM_8X16;
const STAGE_BYTES: u32 = TILE.stage_bytes();
const RING_BYTES: u32 = TILE.stages * STAGE_BYTES;
/// Where `x` lies in a stage: behind the weight.
const X: u32 = TILE.tile_n * STRIP_ROW_BYTES;
/// Rows that a warp copies at a time, 8 chunks of 16 bytes of each.
const ROWS: u32 = WARP / 8;
const _: () = assert!(TILE.tile_m == 8 && TILE.tile_n == 16 && ROWS == 4);
const _: () = assert!(TILE.threads == TILE.tile_m * TILE.tile_n && TILE.warps_k * WARP == TILE.threads);

/// A lane's part of the copies of an operand: one chunk of every 4th row.
struct Operand {
    /// The lane's chunk of its first row, in the step that is copied next.
    source: u64,
    rows_4_bytes: u64,
    /// How many rows there are from the lane's first one on; none if it is not positive.
    rows: i32,
    /// The place of the lane's first chunk in a stage.
    target: u32,
}

impl Operand {
    #[inline(always)]
    fn new(lane: u32, place: u32, source: u64, row_bytes: u64, rows: u32) -> Self {
        let (row, chunk) = (lane / 8, lane % 8);
        Self {
            source: source + row as u64 * row_bytes + chunk as u64 * 16,
            rows_4_bytes: ROWS as u64 * row_bytes,
            rows: rows as i32 - row as i32,
            target: place + chunk_offset(TILE.tile_n, row, chunk),
        }
    }

    /// Begins the copies of a step, and goes on to the warp's next; what there is not becomes zeros.
    ///
    /// # Safety
    /// What there is can be read; nothing accesses the stage until the copies have been waited for.
    #[inline(always)]
    unsafe fn copy(&mut self, passes: Range<u32>, stage: u32, inside: bool) {
        let rows = if inside { self.rows } else { 0 };
        let mut source = self.source;
        for pass in passes {
            // Four rows further on, chunks lie the other way round in halves of a row.
            let target = ((self.target + stage) ^ (pass % 2 * 64)) + pass * ROWS * STRIP_ROW_BYTES;
            // SAFETY: the caller's.
            unsafe { cp_async_cg_16_zfill(target, source, ((pass * ROWS) as i32) < rows) };
            source += self.rows_4_bytes;
        }
        self.source += (TILE.warps_k * STRIP_ROW_BYTES) as u64;
    }
}

/// 16 columns of up to 8 rows.
///
/// # Safety
/// Launched as [`crate::kernel::gemm`] says.
#[inline(always)]
pub(super) unsafe fn gemm<E: Element, const STAGES: u32, const PENDING: u32>(
    tensors: Tensors,
    params: &GemmParams,
) {
    const { assert!(STAGES == TILE.stages && PENDING + 2 == STAGES) };
    // SAFETY: the caller's. A stage is written again after the warp has met behind the step that read it.
    unsafe {
        let first_column = cta()[0] * TILE.tile_n;
        let columns = params.out_features - first_column;
        let thread = Thread::current();
        let smem = dynamic_smem();
        let ring = smem + thread.warp * RING_BYTES;

        let first_byte = (thread.warp * STRIP_ROW_BYTES) as u64;
        let weight = tensors.weight + first_column as u64 * params.weight_row_bytes + first_byte;
        let mut weight = Operand::new(thread.lane, 0, weight, params.weight_row_bytes, columns);
        let mut x = Operand::new(thread.lane, X, tensors.x + first_byte, params.x_row_bytes, params.rows);
        let first_feature = thread.warp * GEMM_TILE_K + thread.lane % 8 * 8;
        let mut features = params.in_features as i32 - first_feature as i32;
        let mut begin = |stage: u32| {
            let inside = features > 0;
            weight.copy(0..TILE.tile_n / ROWS, stage, inside);
            x.copy(0..TILE.tile_m / ROWS, stage, inside);
            features -= (TILE.warps_k * GEMM_TILE_K) as i32;
            cp_async_commit_group();
        };

        let last = ring + RING_BYTES - STAGE_BYTES;
        let (mut stage, mut free) = (ring, last);
        while stage != last {
            begin(stage);
            stage += STAGE_BYTES;
        }
        stage = ring;
        let weight_lane = fragment(0, TILE.tile_n, 0, rows_then_columns(thread.lane));
        let x_lane = X + chunk_offset(TILE.tile_m, thread.lane % 8, thread.lane / 8);
        let mut sums = [0.0; 4];
        for _ in 0..params.in_features.div_ceil(TILE.warps_k * GEMM_TILE_K) {
            cp_async_wait_group::<PENDING>();
            barrier::sync_warp();
            begin(free);
            for half in 0..2 {
                let [b0, b1, b2, b3] = ldmatrix_x4((x_lane + stage) ^ (half * 64));
                let a = ldmatrix_x4(step_columns(weight_lane + stage, TILE.tile_n, 2 * half));
                E::mma(&mut sums, a, [b0, b1]);
                let a = ldmatrix_x4(step_columns(weight_lane + stage, TILE.tile_n, 2 * half + 1));
                E::mma(&mut sums, a, [b2, b3]);
            }
            free = stage;
            stage = if stage == last { ring } else { stage + STAGE_BYTES };
        }
        cp_async_wait_group::<0>();
        barrier::sync();
        write::<E>(thread, smem, sums, first_column, &tensors, params);
    }
}

/// Adds the sums of the warps, in the order of their first features, and the bias; writes one element per thread.
///
/// # Safety
/// Reached by all threads of the CTA; the shared memory at `smem` is free.
#[inline(always)]
unsafe fn write<E: Element>(
    thread: Thread,
    smem: u32,
    sums: [f32; 4],
    first_column: u32,
    tensors: &Tensors,
    params: &GemmParams,
) {
    const WARP_BYTES: u32 = TILE.tile_m * TILE.tile_n * 4;
    // Of `[column][row]`.
    let place = |column: u32, row: u32| (column * TILE.tile_m + row) * 4;
    // SAFETY: the caller's.
    unsafe {
        for half in 0..2 {
            let pair = [sums[2 * half], sums[2 * half + 1]];
            let at = place(thread.lane / 4 + half as u32 * 8, thread.column());
            st_shared_v2_f32(smem + thread.warp * WARP_BYTES + at, pair);
        }
        barrier::sync();
        let (row, column) = (thread.index / TILE.tile_n, thread.index % TILE.tile_n);
        let mut sum = 0.0;
        for warp in 0..TILE.warps_k {
            sum += ld_shared_f32(smem + warp * WARP_BYTES + place(column, row));
        }
        let column = first_column + column;
        if row < params.rows && column < params.out_features {
            if tensors.bias != 0 {
                let bias = ld_global_b16(tensors.bias + column as u64 * ELEMENT_BYTES as u64) as u32;
                sum += E::unpack(bias)[0];
            }
            let out = tensors.out + row as u64 * params.out_row_bytes;
            if params.out_f32 == 0 {
                st_global_b16(out + column as u64 * ELEMENT_BYTES as u64, E::pack(sum, 0.0) as u16);
            } else {
                st_global_b32(out + column as u64 * 4, sum.to_bits());
            }
        }
    }
}
