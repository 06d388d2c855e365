//! Decisions of a whole grid, which the CTA that comes last makes, and of a CTA.

use crate::arch::atomic::{atom_global_add_u32, fence_gpu};
use crate::arch::barrier;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::{ld_shared_v2_b32, st_shared_v2_b32};
use crate::arch::shuffle;
use crate::forward::Thread;
use crate::tile_size::WARP;

/// Whether this CTA is the last of `count` that come to `ticket`. What the others did before they came is visible to it,
/// and the ticket is 0 again.
///
/// # Safety
/// Reached by all threads of the CTA; `ticket` is a word that only these CTAs access, 0 before the first of them comes.
#[inline(always)]
pub(crate) unsafe fn last(thread: Thread, ticket: u64, count: u32) -> bool {
    // SAFETY: the caller's. Each thread's fence orders what it did before the barrier's other side, where one comes for
    // them all; that one's second fence and the barrier order what the CTA does from then on.
    unsafe {
        fence_gpu();
        barrier::sync();
        let last = thread.index == 0 && thread_is_last(ticket, count);
        barrier::sync_any(last)
    }
}

/// As [`last`], of single threads: whether this is the last of `count`.
///
/// # Safety
/// `ticket` is a word that only these threads access, 0 before the first of them comes.
#[inline(always)]
pub(crate) unsafe fn thread_is_last(ticket: u64, count: u32) -> bool {
    fence_gpu();
    // SAFETY: the caller's. The fences order what the thread did before, and what it does from then on.
    unsafe {
        let last = atom_global_add_u32(ticket, 1) + 1 == count;
        fence_gpu();
        if last {
            st_global_b32(ticket, 0);
        }
        last
    }
}

/// The least of the values of all threads of the CTA, in each of them.
///
/// # Safety
/// Reached by all threads of a CTA of `WARPS` warps; `smem` has room for 8 bytes per warp that nothing else uses until
/// the CTA's next barrier.
#[inline(always)]
pub(crate) unsafe fn least<const WARPS: u32>(thread: Thread, smem: u32, value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let value = warp_least(value);
        barrier::sync();
        if thread.lane == 0 {
            st_shared_v2_b32(smem + thread.warp * 8, [value as u32, (value >> 32) as u32]);
        }
        barrier::sync();
        // Every warp reads them all: lanes beyond the last warp repeat the others.
        let [low, high] = ld_shared_v2_b32(smem + thread.lane % WARPS * 8);
        warp_least((high as u64) << 32 | low as u64)
    }
}

/// The least of the values of all lanes, in each of them.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
unsafe fn warp_least(value: u64) -> u64 {
    const { assert!(WARP == 32) };
    // SAFETY: the caller's.
    unsafe {
        let value = value.min(shuffle::bfly_u64::<1>(value));
        let value = value.min(shuffle::bfly_u64::<2>(value));
        let value = value.min(shuffle::bfly_u64::<4>(value));
        let value = value.min(shuffle::bfly_u64::<8>(value));
        value.min(shuffle::bfly_u64::<16>(value))
    }
}

/// Adds 1 to each of `count` words: what a captured graph knows of its position grows with every launch.
///
/// # Safety
/// Called by the `threads` threads of one CTA of the grid, each with its index; nothing else accesses the words.
#[inline(always)]
pub(crate) unsafe fn count_up(words: u64, count: u32, index: u32, threads: u32) {
    let mut i = index;
    while i < count {
        let word = words + 4 * i as u64;
        // SAFETY: the caller's.
        unsafe { st_global_b32(word, ld_global_b32(word).wrapping_add(1)) };
        i += threads;
    }
}
