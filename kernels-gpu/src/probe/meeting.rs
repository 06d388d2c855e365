//! Where the sums of the four warps meet.
//!
//! Sums by key: every warp has those of its rows for the 32 keys of a step; a step later one of the warps adds the four and
//! stores them. Two buffers take turns.
//!
//! Sums by diagonal: the diagonals that warp `w` completes in a step are those that warp 0 completed `w` steps ago. Each
//! warp adds its part to a slot, of which there are four, one per warp and step.

use crate::arch::global::st_global_b32;
use crate::arch::shared::{ld_shared_f32, st_shared_b32};
use crate::arch::shuffle::bfly;
use crate::forward::{THREADS, Thread, WARPS};
use crate::product::{Products, TILE_N};

/// Bytes of 32 sums.
const STEP_BYTES: u32 = TILE_N * 4;

/// Bytes of all of it.
pub(super) const BYTES: u32 = 3 * WARPS * STEP_BYTES;

/// The place in shared memory, and the thread.
#[derive(Clone, Copy)]
pub(super) struct Meeting {
    pub(super) smem: u32,
    pub(super) thread: Thread,
}

impl Meeting {
    /// Takes all sums to zero.
    ///
    /// # Safety
    /// Reached by all threads of the CTA, before a barrier.
    #[inline(always)]
    pub(super) unsafe fn clear(self) {
        for i in 0..3 {
            // SAFETY: `THREADS` words each time, which is `WARPS` times 32.
            unsafe { st_shared_b32(self.smem + (i * THREADS + self.thread.index) * 4, 0) };
        }
    }

    /// The buffer of sums by key of the step from key `n` on.
    #[inline(always)]
    fn columns(self, n: u32) -> u32 {
        self.smem + n / TILE_N % 2 * WARPS * STEP_BYTES
    }

    /// Hands in the warp's sums by key of the step from key `n` on: this lane's are those of [`column`].
    ///
    /// # Safety
    /// Between the barriers of that step and the next.
    #[inline(always)]
    pub(super) unsafe fn put_column(self, n: u32, sum: f32) {
        let address = self.columns(n) + self.thread.warp * STEP_BYTES + column(self.thread.lane) * 4;
        // SAFETY: the lane's own.
        unsafe { st_shared_b32(address, sum.to_bits()) };
    }

    /// Stores the sums by key of the step from key `n` on, of the keys before `limit`; one of the warps does. `vertical` is the
    /// address of that of key 0.
    ///
    /// # Safety
    /// Between the barrier after that step and the next one; `vertical` holds the keys.
    #[inline(always)]
    pub(super) unsafe fn store_columns(self, n: u32, limit: u32, vertical: u64) {
        if self.thread.warp != n / TILE_N % WARPS {
            return;
        }
        let key = n + self.thread.lane;
        // SAFETY: the caller's.
        unsafe {
            let part = |warp| ld_shared_f32(self.columns(n) + warp * STEP_BYTES + self.thread.lane * 4);
            let sum = (part(0) + part(1)) + (part(2) + part(3));
            if key < limit {
                st_global_b32(vertical + key as u64 * 4, sum.to_bits());
            }
        }
    }

    /// Adds the warp's part of the diagonals that it has completed in the step from key `n` on. Warp 3 gets the sums back, with
    /// which they are whole.
    ///
    /// # Safety
    /// Between the barriers of that step and the next.
    #[inline(always)]
    pub(super) unsafe fn add_diagonal(self, n: u32, part: f32) -> Option<f32> {
        let slot = (n / TILE_N).wrapping_sub(self.thread.warp) % WARPS;
        let address = self.smem + (2 * WARPS + slot) * STEP_BYTES + self.thread.lane * 4;
        // SAFETY: no two warps have the same slot in a step.
        unsafe {
            let sum = if self.thread.warp == 0 { part } else { ld_shared_f32(address) + part };
            if self.thread.warp == WARPS - 1 {
                return Some(sum);
            }
            st_shared_b32(address, sum.to_bits());
        }
        None
    }
}

/// The column whose sum [`column_sum`] leaves in lane `lane`.
#[inline(always)]
fn column(lane: u32) -> u32 {
    lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2
}

/// The sums of the warp's 32 rows by column; each lane gets that of its [`column`].
///
/// The 8 lanes that hold a column's rows exchange halves of what they have: 8 columns, then 4, 2, 1. All columns are added in
/// the same order of rows.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub(super) unsafe fn column_sum(p: &Products, lane: u32) -> f32 {
    let mut sums = [0.0; 8];
    for n in 0..4 {
        for c in 0..2 {
            sums[2 * n + c] = (p[0][n][c] + p[0][n][2 + c]) + (p[1][n][c] + p[1][n][2 + c]);
        }
    }
    // SAFETY: the caller's.
    unsafe {
        let upper = lane & 16 != 0;
        let quarter: [f32; 4] = core::array::from_fn(|i| {
            let (keep, send) = if upper { (sums[4 + i], sums[i]) } else { (sums[i], sums[4 + i]) };
            keep + bfly::<16>(send)
        });
        let upper = lane & 8 != 0;
        let pair: [f32; 2] = core::array::from_fn(|i| {
            let (keep, send) =
                if upper { (quarter[2 + i], quarter[i]) } else { (quarter[i], quarter[2 + i]) };
            keep + bfly::<8>(send)
        });
        let (keep, send) = if lane & 4 != 0 { (pair[1], pair[0]) } else { (pair[0], pair[1]) };
        keep + bfly::<4>(send)
    }
}
