//! Decisions of a whole grid: the CTA that comes last makes them.

use crate::arch::atomic::{atom_global_add_u32, fence_gpu};
use crate::arch::barrier;
use crate::arch::global::st_global_b32;
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
pub(super) unsafe fn of(thread: Thread, ticket: u64, count: u32) -> bool {
    // SAFETY: the caller's. Each thread's fence orders what it did before the barrier's other side, where one adds to the
    // ticket; that one's second fence and the barrier order what the CTA does from then on.
    unsafe {
        fence_gpu();
        barrier::sync();
        let mut last = false;
        if thread.index == 0 {
            last = atom_global_add_u32(ticket, 1) + 1 == count;
            fence_gpu();
            if last {
                st_global_b32(ticket, 0);
            }
        }
        barrier::sync_any(last)
    }
}

/// The least of the values of all threads of the CTA, in each of them.
///
/// # Safety
/// Reached by all threads of a CTA of `WARPS` warps; `smem` has room for 8 bytes per warp that nothing else uses until
/// the CTA's next barrier.
#[inline(always)]
pub(super) unsafe fn least<const WARPS: u32>(thread: Thread, smem: u32, value: u64) -> u64 {
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
