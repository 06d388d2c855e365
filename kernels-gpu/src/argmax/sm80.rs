//! The kernel for compute capability 8.0 and later.

use crate::arch::atomic::red_global_min_u64;
use crate::arch::global::{ld_global_b32, ld_global_v2_b32, st_global_b32, st_global_v2_b32};
use crate::arch::math::fma;
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::forward::Thread;
use crate::grid;
use crate::params::ArgmaxParams;
use crate::select::key;
use crate::tile_size::{ARGMAX_SLICE, ARGMAX_THREADS, WARP};

const WARPS: u32 = ARGMAX_THREADS / WARP;

/// Logits of a thread that are under way together.
const BATCH: u32 = ARGMAX_SLICE / ARGMAX_THREADS;

/// Bytes of a row's meeting place: the least so far, and the ticket.
const MEETING_BYTES: u64 = 16;

/// The least over the thread's part of `first..end`: inverted key, then index; the index `u32::MAX` below key 0 where
/// a logit is not finite.
///
/// # Safety
/// The logits exist; `first < end`.
#[inline(always)]
unsafe fn of_thread(logits: u64, first: u32, end: u32, thread: u32) -> u64 {
    let (mut largest, mut at) = (f32::NEG_INFINITY, 0);
    // Zero times a logit is zero, or NaN, and stays NaN.
    let mut finite = 0.0;
    let mut round = first;
    while round < end {
        // Past the end, the last logit once more: loads that wait for no branch are under way together.
        let index = |j: u32| (round + j * ARGMAX_THREADS + thread).min(end - 1);
        // SAFETY: inside the row.
        let values: [f32; BATCH as usize] = core::array::from_fn(|j| unsafe {
            f32::from_bits(ld_global_b32(logits + 4 * index(j as u32) as u64))
        });
        for j in 0..BATCH {
            let value = values[j as usize];
            finite = fma(value, 0.0, finite);
            // The indices ascend: of equals the first stays.
            if value > largest {
                (largest, at) = (value, index(j));
            }
        }
        round += BATCH * ARGMAX_THREADS;
    }
    if finite.is_nan() { u32::MAX as u64 } else { (!key::score(largest) as u64) << 32 | at as u64 }
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn find(logits: u64, meeting: u64, out: u64, counters: u64, params: &ArgmaxParams) {
    let [row, slice, _] = cta();
    // SAFETY: the caller's; the meeting place belongs to the CTAs of the row, one thread of each.
    unsafe {
        let thread = Thread::current();
        if row == 0 && slice == 0 {
            grid::count_up(counters, params.counters, thread.index, ARGMAX_THREADS);
        }
        let logits = logits + row as u64 * params.row_stride * 4;
        let first = slice * params.slice;
        let end = (first + params.slice).min(params.vocab_size);
        let of_thread = of_thread(logits, first, end, thread.index);
        let least = grid::least::<WARPS>(thread, dynamic_smem(), of_thread);
        if thread.index != 0 {
            return;
        }
        let mut index = least as u32;
        if params.slices > 1 {
            let meeting = meeting + row as u64 * MEETING_BYTES;
            red_global_min_u64(meeting, least);
            if !grid::thread_is_last(meeting + 8, params.slices) {
                return;
            }
            [index, _] = ld_global_v2_b32(meeting);
            st_global_v2_b32(meeting, [u32::MAX; 2]);
        }
        st_global_b32(out + row as u64 * 4, index);
    }
}

kernel! {
    fn argmax(logits: u64, meeting: u64, out: u64, counters: u64, params: ArgmaxParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { find(logits, meeting, out, counters, &params) }
    }
}
