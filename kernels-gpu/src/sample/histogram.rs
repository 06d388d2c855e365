//! How far down a cut may reach: weights by level.

use super::row::{Row, slice_of};
use super::search::inclusive_sum;
use super::{control, weight};
use crate::arch::atomic::{red_global_add_u32, red_global_add_u64, red_shared_add_u32, red_shared_add_u64};
use crate::arch::global::{ld_global_v2_b32, ld_global_v4_b32, st_global_v2_b32, st_global_v4_b32};
use crate::arch::shared::{dynamic_smem, ld_shared_b32, st_shared_v4_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, redux};
use crate::grid;
use crate::params::SampleParams;
use crate::select::Cta;
use crate::tile_size::{
    SAMPLE_LEVELS as LEVELS, SAMPLE_SLICE, SAMPLE_WARPS as WARPS, SELECT_SCRATCH_BYTES as SCRATCH_BYTES, WARP,
};

const THREADS: u32 = WARPS * WARP;

/// What follows the counts in shared memory: low and high halves of sums.
const LOW: u32 = LEVELS * 4;
const HIGH: u32 = 2 * LOW;

const _: () = assert!(LEVELS == 2 * THREADS, "a thread decides on two levels");

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn histogram(
    logits: u64,
    top: u64,
    control: u64,
    counts: u64,
    sums: u64,
    params: &SampleParams,
) {
    let [row_index, slice, _] = cta();
    // SAFETY: the caller's; the row's part of the workspace belongs to its CTAs.
    unsafe {
        let cta = Cta::<WARPS>::new(dynamic_smem());
        let Some(row) = Row::new(logits, top, control, row_index, params) else { return };
        let (counts, sums) =
            (counts + row_index as u64 * (4 * LEVELS as u64), sums + row_index as u64 * (8 * LEVELS as u64));
        of_slice(cta, &row, slice_of(slice, params));
        let levels = cta.smem + SCRATCH_BYTES;
        for i in 0..2 {
            let level = cta.thread.index + i * THREADS;
            let at = levels + 4 * level;
            let count = ld_shared_b32(at);
            if count != 0 {
                let sum = (ld_shared_b32(at + HIGH) as u64) << 32 | ld_shared_b32(at + LOW) as u64;
                red_global_add_u32(counts + 4 * level as u64, count);
                red_global_add_u64(sums + 8 * level as u64, sum);
            }
        }
        if grid::last(cta.thread, row.control + control::TICKET, params.slices) {
            decide(cta, &row, counts, sums, params);
        }
    }
}

/// Counts and weights of a slice by level, in shared memory.
///
/// # Safety
/// Reached by all threads of the CTA.
#[inline(always)]
unsafe fn of_slice(cta: Cta<WARPS>, row: &Row, (first, end): (u32, u32)) {
    /// Logits of a thread that are under way together.
    const BATCH: u32 = SAMPLE_SLICE / THREADS;
    let levels = cta.smem + SCRATCH_BYTES;
    let add = |level: u32, count: u32, sum: u64| {
        let at = levels + 4 * level;
        // SAFETY: a level; all threads add between two barriers.
        unsafe {
            red_shared_add_u32(at, count);
            red_shared_add_u64(at + LOW, at + HIGH, sum);
        }
    };
    // SAFETY: inside the histogram, and the slice.
    unsafe {
        for at in (16 * cta.thread.index..12 * LEVELS).step_by(16 * THREADS as usize) {
            st_shared_v4_b32(levels + at, [0; 4]);
        }
        barrier::sync();
        // Equal levels in a row: a flat slice costs an atomic per thread and not per logit.
        let (mut run_level, mut run_count, mut run_sum) = (0, 0, 0);
        let mut round = first;
        while round < end {
            // Past the end, the last logit once more: loads that wait for no branch are under way together.
            let at = |j: usize| round + j as u32 * THREADS + cta.thread.index;
            let logits: [f32; BATCH as usize] = core::array::from_fn(|j| row.logit(at(j).min(end - 1)));
            for j in 0..BATCH as usize {
                if at(j) < end {
                    let (level, weight) = row.level_and_weight(logits[j]);
                    if level != run_level {
                        add(run_level, run_count, run_sum);
                        (run_level, run_count, run_sum) = (level, 0, 0);
                    }
                    run_count += 1;
                    run_sum += weight;
                }
            }
            round += BATCH * THREADS;
        }
        if run_count != 0 {
            add(run_level, run_count, run_sum);
        }
        barrier::sync();
    }
}

/// The first level with which the count or the weight is reached that is to be kept, and what lies down to it.
///
/// # Safety
/// Reached by all threads of the CTA that came last.
#[inline(always)]
unsafe fn decide(cta: Cta<WARPS>, row: &Row, counts: u64, sums: u64, params: &SampleParams) {
    // SAFETY: the caller's; a thread has two levels of its own.
    unsafe {
        let of_thread = cta.thread.index as u64;
        let (counts, sums) = (counts + 8 * of_thread, sums + 16 * of_thread);
        let [count, next_count] = ld_global_v2_b32(counts);
        let [low, high, next_low, next_high] = ld_global_v4_b32(sums);
        let next_sum = (next_high as u64) << 32 | next_low as u64;
        let sum = ((high as u64) << 32 | low as u64) + next_sum;
        st_global_v2_b32(counts, [0; 2]);
        st_global_v4_b32(sums, [0; 4]);

        let (count_upto, _) = inclusive_sum(cta, (count + next_count) as u64);
        let (sum_upto, total) = inclusive_sum(cta, sum);
        let counts = [count_upto - next_count as u64, count_upto];
        let sums = [sum_upto - next_sum, sum_upto];
        // Both only grow from level to level.
        let need = weight::need(params.top_p, total);
        let short = |i: usize| {
            if params.top_k != 0 { counts[i] < params.top_k as u64 } else { sums[i] < need }
        };
        let level = cta.sum_of_warps(redux::add_u32(short(0) as u32 + short(1) as u32));
        if cta.thread.index == level / 2 {
            row.set(control::LEVEL, level);
            row.set(control::SURVIVORS, if level % 2 == 0 { counts[0] } else { counts[1] } as u32);
            row.set(control::TOTAL, total as u32);
            row.set(control::TOTAL + 4, (total >> 32) as u32);
        }
    }
}
