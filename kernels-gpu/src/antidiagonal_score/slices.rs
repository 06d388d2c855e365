//! Slices of 64 features of folded queries and keys, from global to shared memory.

use super::groups::Groups;
use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group};
use crate::smem::{STRIP_ROW_BYTES, chunk_offset};
use crate::tile_size::{ANTIDIAGONAL_SCORE, AntidiagonalTile};

const TILE: AntidiagonalTile = ANTIDIAGONAL_SCORE;

/// Chunks of 16 bytes in a row of a slice.
const CHUNKS: u32 = STRIP_ROW_BYTES / 16;

/// Rows that a CTA copies with one instruction of each thread.
const ROWS_PER_PASS: u32 = TILE.threads / CHUNKS;

/// Where the rows of a tile come from.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// The first token of the sequence.
    pub(super) address: u64,
    pub(super) row_bytes: u64,
    /// Tokens of the sequence.
    pub(super) len: u32,
}

/// A thread's part of the copies of a tile's slices, in the order in which they are wanted: key tile by key tile, token by
/// token of the groups, 64 features after 64.
pub(super) struct Slices {
    queries: Source,
    keys: Source,
    stride: u32,
    head_slices: u32,
    /// The thread's first row, in groups: of the queries, and of the keys at hand.
    q_group: u32,
    k_group: u32,
    /// The token of the groups, and the 64 features of it, that come next.
    token: u32,
    features: u32,
    /// Slices not yet begun.
    left: u32,
}

impl Slices {
    /// The slices of `key_tiles` tiles of keys, and of the groups of queries from `first` on.
    #[inline(always)]
    pub(super) fn new(
        thread: u32,
        groups: &Groups,
        queries: u64,
        keys: u64,
        row_bytes: [u64; 2],
        head_slices: u32,
        first: u32,
        key_tiles: u32,
    ) -> Self {
        let (row, stride) = (thread / CHUNKS, groups.stride);
        let chunk = (thread % CHUNKS * 16) as u64;
        Self {
            queries: Source { address: queries + chunk, row_bytes: row_bytes[0], len: groups.q_len },
            keys: Source { address: keys + chunk, row_bytes: row_bytes[1], len: groups.k_len },
            stride,
            head_slices,
            q_group: first + row,
            k_group: row,
            token: 0,
            features: 0,
            left: key_tiles * stride * head_slices,
        }
    }

    /// Begins to copy the next slice to the stage at `smem`, if there is one. Closes a group of copies in any case, so that
    /// threads may count them.
    ///
    /// # Safety
    /// The stage is free; the tensors hold the tokens of the sequence.
    #[inline(always)]
    pub(super) unsafe fn begin(&mut self, thread: u32, smem: u32) {
        if self.left > 0 {
            self.left -= 1;
            let target = smem + chunk_offset(TILE.tile_m, thread / CHUNKS, thread % CHUNKS);
            let q_token = self.q_group * self.stride + (self.stride - 1 - self.token);
            let k_token = self.k_group * self.stride + self.token;
            // SAFETY: the caller's.
            unsafe {
                self.copy::<{ TILE.tile_m / ROWS_PER_PASS }>(&self.queries, q_token, target);
                let target = target + TILE.tile_m * STRIP_ROW_BYTES;
                self.copy::<{ TILE.tile_n / ROWS_PER_PASS }>(&self.keys, k_token, target);
            }
            self.features += 1;
            if self.features == self.head_slices {
                self.features = 0;
                self.token += 1;
                if self.token == self.stride {
                    self.token = 0;
                    self.k_group += TILE.tile_n;
                }
            }
        }
        cp_async_commit_group();
    }

    /// Rows `token`, `token + ROWS_PER_PASS * stride`, ...; zeros past the sequence's end.
    ///
    /// # Safety
    /// As [`Slices::begin`].
    #[inline(always)]
    unsafe fn copy<const PASSES: u32>(&self, from: &Source, token: u32, target: u32) {
        let step = ROWS_PER_PASS * self.stride;
        let mut source =
            from.address + token as u64 * from.row_bytes + (self.features * STRIP_ROW_BYTES) as u64;
        for pass in 0..PASSES {
            let target = target + pass * ROWS_PER_PASS * STRIP_ROW_BYTES;
            // SAFETY: the caller's.
            unsafe { cp_async_cg_16_zfill(target, source, token + pass * step < from.len) };
            source += step as u64 * from.row_bytes;
        }
    }
}
