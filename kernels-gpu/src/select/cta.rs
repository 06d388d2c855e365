//! The CTA that makes a selection.

use crate::arch::shared::{ld_shared_b32, st_shared_b32};
use crate::arch::{barrier, redux};
use crate::forward::Thread;
use crate::tile_size::WARP;

/// A CTA of `WARPS` warps, as one of its threads sees it, and shared memory for its selections.
#[derive(Clone, Copy)]
pub(crate) struct Cta<const WARPS: u32> {
    pub(crate) thread: Thread,
    /// The first byte of [`SELECT_COUNT_SMEM_BYTES`](crate::tile_size::SELECT_COUNT_SMEM_BYTES) for selections by count and
    /// lists, of [`SELECT_SUM_SMEM_BYTES`](crate::tile_size::SELECT_SUM_SMEM_BYTES) for those by sum; a multiple of 16.
    /// Selections leave nothing in it, and all threads are done with it when they return.
    pub(crate) smem: u32,
}

impl<const WARPS: u32> Cta<WARPS> {
    pub(crate) const THREADS: u32 = WARPS * WARP;

    /// # Safety
    /// Reached by all threads of a CTA of `WARPS` warps, at most 32; `smem` is shared memory of a selection.
    #[inline(always)]
    pub(crate) unsafe fn new(smem: u32) -> Self {
        const { assert!(WARPS.is_power_of_two() && WARPS <= WARP) };
        // SAFETY: the caller's.
        Self { thread: unsafe { Thread::current() }, smem }
    }

    /// The sum of what each warp has, the same in its lanes, in all threads.
    ///
    /// # Safety
    /// Reached by all threads of the CTA.
    #[inline(always)]
    pub(crate) unsafe fn sum_of_warps(self, value: u32) -> u32 {
        let Thread { warp, lane, .. } = self.thread;
        // SAFETY: every warp has a place, written and read between barriers.
        unsafe {
            if lane == 0 {
                st_shared_b32(self.smem + 4 * warp, value);
            }
            barrier::sync();
            let sum = redux::add_u32(if lane < WARPS { ld_shared_b32(self.smem + 4 * lane) } else { 0 });
            barrier::sync();
            sum
        }
    }
}
