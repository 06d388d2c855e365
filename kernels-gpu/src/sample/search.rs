//! Where a running sum passes a goal.

use crate::arch::shared::{
    ld_shared_b32, ld_shared_v2_b32, ld_shared_v4_b32, st_shared_b32, st_shared_v2_b32, st_shared_v4_b32,
};
use crate::arch::{barrier, redux, shuffle, vote};
use crate::forward::Thread;
use crate::select::Cta;
use crate::tile_size::{SAMPLE_SLICE, SAMPLE_WARPS as WARPS, WARP};

/// In shared memory, behind 8 bytes per warp: what was found.
const FOUND: u32 = 8 * WARPS;

/// Values of a thread that are under way together.
const BATCH: u32 = SAMPLE_SLICE / (WARPS * WARP);

/// The sum of `value(i, load(i))` over the entries `first..end` that this thread has: every `threads`-th.
#[inline(always)]
pub(super) fn sum_of_thread<L: Copy>(
    (first, end): (u32, u32),
    index: u32,
    threads: u32,
    load: impl Fn(u32) -> L,
    value: impl Fn(u32, L) -> u64,
) -> u64 {
    let mut sum = 0;
    let mut round = first;
    while round < end {
        // Past the end, the last entry once more: loads that wait for no branch are under way together.
        let at = |j: usize| round + j as u32 * threads + index;
        let loaded: [L; BATCH as usize] = core::array::from_fn(|j| load(at(j).min(end - 1)));
        for j in 0..BATCH as usize {
            if at(j) < end {
                sum += value(at(j), loaded[j]);
            }
        }
        round += BATCH * threads;
    }
    sum
}

/// What this thread's value comes to up to and with it, over the threads of the CTA, and over all.
///
/// # Safety
/// Reached by all threads of the CTA; `smem` has room for 8 bytes per warp that nothing else uses.
#[inline(always)]
pub(super) unsafe fn inclusive_sum(cta: Cta<WARPS>, value: u64) -> (u64, u64) {
    let Thread { warp, lane, .. } = cta.thread;
    // SAFETY: the caller's; every warp has a place, written and read between barriers.
    unsafe {
        let upto = shuffle::inclusive_sum_u64(value, lane);
        if lane == WARP - 1 {
            st_shared_u64(cta.smem + 8 * warp, upto);
        }
        barrier::sync();
        let of_warp = ld_shared_u64(cta.smem + 8 * lane);
        let warps = shuffle::inclusive_sum_u64(of_warp, lane);
        let before = shuffle::idx_u64(warps - of_warp, warp);
        let all = shuffle::idx_u64(warps, WARP - 1);
        barrier::sync();
        (before + upto, all)
    }
}

/// The first slice with which the sum of the slices' sums, one per thread, exceeds `goal(sum of all)`, and how far the goal
/// lies beyond the sum before it. The goal is below the sum of all.
///
/// # Safety
/// Reached by all threads of the CTA; shared memory as [`SAMPLE_DRAW_SMEM_BYTES`](crate::tile_size::SAMPLE_DRAW_SMEM_BYTES)
/// says.
#[inline(always)]
pub(super) unsafe fn slice_beyond(cta: Cta<WARPS>, sum: u64, goal: impl Fn(u64) -> u64) -> (u32, u64) {
    let found = cta.smem + FOUND;
    // SAFETY: the caller's; one thread writes what was found, all read it behind the barrier.
    unsafe {
        let (upto, all) = inclusive_sum(cta, sum);
        let (goal, before) = (goal(all), upto - sum);
        if before <= goal && goal < upto {
            let rest = goal - before;
            st_shared_v4_b32(found, [rest as u32, (rest >> 32) as u32, cta.thread.index, 0]);
        }
        barrier::sync();
        let [low, high, slice, _] = ld_shared_v4_b32(found);
        barrier::sync();
        (slice, (high as u64) << 32 | low as u64)
    }
}

/// The first of the tokens `first..end` with which the sum of the values exceeds `goal`, which is below the sum of all.
///
/// # Safety
/// As [`slice_beyond`]; `load` and `value` return the same whenever they are asked.
#[inline(always)]
pub(super) unsafe fn token_beyond<L: Copy>(
    cta: Cta<WARPS>,
    (first, end): (u32, u32),
    goal: u64,
    load: impl Fn(u32) -> L,
    value: impl Fn(u32, L) -> u64,
) -> u32 {
    let Thread { warp, lane, .. } = cta.thread;
    let found = cta.smem + FOUND;
    // Each warp has tokens that lie side by side.
    let of_warp = (end - first).div_ceil(WARPS * WARP) * WARP;
    let from = (first + warp * of_warp).min(end);
    let to = (from + of_warp).min(end);
    // SAFETY: the caller's; every warp has a place, and one lane of one warp writes what was found; barriers between.
    unsafe {
        let sum = redux::sum_u64(sum_of_thread((from, to), lane, WARP, &load, &value));
        if lane == 0 {
            st_shared_u64(cta.smem + 8 * warp, sum);
        }
        barrier::sync();
        let of_warp = ld_shared_u64(cta.smem + 8 * lane);
        let upto = shuffle::inclusive_sum_u64(of_warp, lane);
        if warp == vote::ballot(upto > goal).trailing_zeros() {
            let mut before = shuffle::idx_u64(upto - of_warp, warp);
            let mut round = from;
            while round < to {
                let token = round + lane;
                let own = if token < to { value(token, load(token)) } else { 0 };
                let upto = before + shuffle::inclusive_sum_u64(own, lane);
                let beyond = vote::ballot(upto > goal);
                if beyond != 0 {
                    if lane == 0 {
                        st_shared_b32(found, round + beyond.trailing_zeros());
                    }
                    break;
                }
                before = shuffle::idx_u64(upto, WARP - 1);
                round += WARP;
            }
        }
        barrier::sync();
        ld_shared_b32(found)
    }
}

/// # Safety
/// As [`st_shared_v2_b32`].
#[inline(always)]
unsafe fn st_shared_u64(address: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe { st_shared_v2_b32(address, [value as u32, (value >> 32) as u32]) };
}

/// # Safety
/// As [`ld_shared_v2_b32`].
#[inline(always)]
unsafe fn ld_shared_u64(address: u32) -> u64 {
    // SAFETY: the caller's.
    let [low, high] = unsafe { ld_shared_v2_b32(address) };
    (high as u64) << 32 | low as u64
}
