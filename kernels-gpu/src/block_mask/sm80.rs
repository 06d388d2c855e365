//! Kernels for compute capability 8.0 and later.

use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::{dynamic_smem, ld_shared_b32, st_shared_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, shuffle};
use crate::forward::Thread;
use crate::params::BlockMaskParams;
use crate::tile_size::{BLOCK_MASK_FILL_ROWS, BLOCK_MASK_SCAN_THREADS, WARP};

const SCAN_WARPS: u32 = BLOCK_MASK_SCAN_THREADS / WARP;
const _: () = assert!(SCAN_WARPS == WARP, "one lane adds up the sum of each warp");

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn scan(counts: u64, indptr: u64, params: &BlockMaskParams) {
    // SAFETY: the caller's; all warps reach the barrier.
    unsafe {
        let Thread { warp, lane, .. } = Thread::current();
        let rows = params.rows;
        let steps = rows.div_ceil(BLOCK_MASK_SCAN_THREADS);
        // Warps may be left without rows.
        let first = (warp * steps * WARP).min(rows);
        let end = (first + steps * WARP).min(rows);
        let count = |row: u32| if row < end { ld_global_b32(counts + row as u64 * 4) } else { 0 };

        let mut sum = 0;
        for row in (first..end).step_by(WARP as usize) {
            sum += count(row + lane);
        }
        let sum = shuffle::inclusive_sum_u32(sum, lane);
        if lane == WARP - 1 {
            st_shared_b32(dynamic_smem() + warp * 4, sum);
        }
        barrier::sync();

        let sums = shuffle::inclusive_sum_u32(ld_shared_b32(dynamic_smem() + lane * 4), lane);
        let total = shuffle::idx(sums, WARP - 1);
        let before = shuffle::idx(sums, warp.saturating_sub(1));
        let mut sum = if warp == 0 { 0 } else { before };
        for row in (first..end).step_by(WARP as usize) {
            let own = count(row + lane);
            let inclusive = shuffle::inclusive_sum_u32(own, lane);
            if row + lane < end {
                st_global_b32(indptr + (row + lane) as u64 * 4, sum + inclusive - own);
            }
            sum += shuffle::idx(inclusive, WARP - 1);
        }
        if warp == 0 && lane == 0 {
            st_global_b32(indptr + rows as u64 * 4, total);
        }
    }
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn fill(bitmask: u64, indptr: u64, indices: u64, params: &BlockMaskParams) {
    // SAFETY: the caller's; a warp leaves or stays as one.
    unsafe {
        let Thread { warp, lane, .. } = Thread::current();
        let row = cta()[0] * BLOCK_MASK_FILL_ROWS + warp;
        if row >= params.rows {
            return;
        }
        let words = params.words;
        let bitmask = bitmask + row as u64 * words as u64 * 4;
        let mut list = indices + ld_global_b32(indptr + row as u64 * 4) as u64 * 4;
        for first in (0..words).step_by(WARP as usize) {
            let left = (words - first).min(WARP);
            let mine = if lane < left { ld_global_b32(bitmask + (first + lane) as u64 * 4) } else { 0 };
            for w in 0..left {
                let word = shuffle::idx(mine, w);
                if word & (1 << lane) != 0 {
                    let below = (word & ((1 << lane) - 1)).count_ones();
                    st_global_b32(list + below as u64 * 4, (first + w) * WARP + lane);
                }
                list += word.count_ones() as u64 * 4;
            }
        }
    }
}

kernel! {
    fn block_mask_scan(counts: u64, indptr: u64, params: BlockMaskParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { scan(counts, indptr, &params) }
    }
}

kernel! {
    fn block_mask_fill(bitmask: u64, indptr: u64, indices: u64, params: BlockMaskParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { fill(bitmask, indptr, indices, &params) }
    }
}
