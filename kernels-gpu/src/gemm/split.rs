//! Sums over parts of the features, and of them.

use super::mainloop::Sums;
use crate::arch::global::{ld_global_v2_b32, st_global_v2_b32};
use crate::forward::Thread;
use crate::tile_size::GemmTile;

/// The partial sums of a tile: those of its CTAs one behind the other, of a CTA thread by thread as they lie in registers.
pub(super) struct Partials {
    pub(super) tile: GemmTile,
    /// This thread's first pair of the first CTA.
    address: u64,
    /// From a CTA to the next.
    split_bytes: u64,
    /// Rows that there are from the thread's first one on.
    rows: i32,
}

impl Partials {
    /// Of tile `index` of `tiles`; `row` is the thread's first row in the tile.
    #[inline(always)]
    pub(super) fn new(
        tile: GemmTile,
        thread: Thread,
        partials: u64,
        index: u32,
        tiles: u32,
        rows: i32,
    ) -> Self {
        let bytes = tile.floats() as u64 * 4;
        Self {
            tile,
            address: partials + index as u64 * bytes + (thread.index * 8) as u64,
            split_bytes: tiles as u64 * bytes,
            rows,
        }
    }

    /// Bytes from the first pair of a CTA to the pair of a fragment's half; all threads' pairs lie side by side.
    #[inline(always)]
    const fn pair<const NT: usize>(&self, i: usize, j: usize, half: usize) -> u64 {
        (((i * NT + j) * 2 + half) as u32 * self.tile.threads * 8) as u64
    }

    #[inline(always)]
    fn has_row(&self, i: usize, half: usize) -> bool {
        ((i * 16 + half * 8) as i32) < self.rows
    }

    /// Leaves the sums of CTA `split`.
    ///
    /// # Safety
    /// The workspace is there, and nothing else accesses the CTA's part.
    #[inline(always)]
    pub(super) unsafe fn store<const MT: usize, const NT: usize>(&self, split: u32, sums: &Sums<MT, NT>) {
        let address = self.address + split as u64 * self.split_bytes;
        for i in 0..MT {
            for half in 0..2 {
                if self.has_row(i, half) {
                    for j in 0..NT {
                        let pair = [sums[i][j][2 * half], sums[i][j][2 * half + 1]].map(f32::to_bits);
                        // SAFETY: the caller's.
                        unsafe { st_global_v2_b32(address + self.pair::<NT>(i, j, half), pair) };
                    }
                }
            }
        }
    }

    /// Adds the sums of all `splits` CTAs, in the order of their features.
    ///
    /// # Safety
    /// All have stored theirs, and this CTA sees it.
    #[inline(always)]
    pub(super) unsafe fn sum<const MT: usize, const NT: usize>(&self, splits: u32) -> Sums<MT, NT> {
        let mut sums = [[[0.0; 4]; NT]; MT];
        let mut address = self.address;
        for _ in 0..splits {
            for i in 0..MT {
                for half in 0..2 {
                    if self.has_row(i, half) {
                        for j in 0..NT {
                            // SAFETY: the caller's.
                            let pair = unsafe { ld_global_v2_b32(address + self.pair::<NT>(i, j, half)) };
                            sums[i][j][2 * half] += f32::from_bits(pair[0]);
                            sums[i][j][2 * half + 1] += f32::from_bits(pair[1]);
                        }
                    }
                }
            }
            address += self.split_bytes;
        }
        sums
    }
}
