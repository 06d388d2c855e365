//! Copies of tiles from global to shared memory, 16 bytes per thread and instruction.

use super::THREADS;
use crate::arch::copy_sm80::{cp_async_cg_16, cp_async_cg_16_zfill};
use crate::arch::shared::ld_shared_b32;
use crate::key_tiles::Gathered;
use crate::smem::{STRIP_ROW_BYTES, chunk_offset};

/// A thread's part of the copies of tiles of `rows` rows and `8 DT` features.
///
/// `DT` threads share a row; a thread's chunks lie in rows a multiple of 8 apart, at one column, so that all its places in
/// shared memory are a constant apart.
#[derive(Clone, Copy)]
pub(crate) struct TileCopy<const DT: usize> {
    /// The tile's rows; a constant to the compiler.
    rows: u32,
    /// The thread's first row.
    row: u32,
    /// Global address of the thread's chunk in that row of the tile at row 0.
    source: u64,
    row_bytes: u64,
    /// The same chunk in shared memory, relative to the tile.
    target: u32,
}

impl<const DT: usize> TileCopy<DT> {
    const ROWS_PER_PASS: u32 = THREADS / DT as u32;
    const PASS_BYTES: u32 = Self::ROWS_PER_PASS * STRIP_ROW_BYTES;

    /// Tiles of the rows that begin at `source`.
    #[inline(always)]
    pub(crate) fn new(thread: u32, rows: u32, source: u64, row_bytes: u64) -> Self {
        let (row, chunk) = (thread / DT as u32, thread % DT as u32);
        Self {
            rows,
            row,
            source: source + row as u64 * row_bytes + chunk as u64 * 16,
            row_bytes,
            target: chunk_offset(rows, row, chunk),
        }
    }

    /// The thread's chunks of a tile at `smem`.
    #[inline(always)]
    pub(crate) fn chunks(&self, smem: u32) -> impl Iterator<Item = u32> + use<DT> {
        let first = smem + self.target;
        (0..self.rows / Self::ROWS_PER_PASS).map(move |pass| first + pass * Self::PASS_BYTES)
    }

    /// Begins to copy the rows from `first_row` on, all of which exist.
    ///
    /// # Safety
    /// They do, and `smem` is a tile's place that nothing accesses until the copies have been waited for.
    #[inline(always)]
    pub(crate) unsafe fn whole(&self, smem: u32, first_row: u32) {
        let mut source = self.source + first_row as u64 * self.row_bytes;
        for chunk in self.chunks(smem) {
            // SAFETY: the caller's.
            unsafe { cp_async_cg_16(chunk, source) };
            source += Self::ROWS_PER_PASS as u64 * self.row_bytes;
        }
    }

    /// The same with rows from `limit` on as zeros.
    ///
    /// # Safety
    /// As [`TileCopy::whole`], for the rows before `limit`.
    #[inline(always)]
    pub(crate) unsafe fn cut(&self, smem: u32, first_row: u32, limit: i32) {
        let mut source = self.source + first_row as u64 * self.row_bytes;
        let mut row = (first_row + self.row) as i32;
        for chunk in self.chunks(smem) {
            // SAFETY: the caller's.
            unsafe { cp_async_cg_16_zfill(chunk, source, row < limit) };
            source += Self::ROWS_PER_PASS as u64 * self.row_bytes;
            row += Self::ROWS_PER_PASS as i32;
        }
    }

    /// Begins to copy the rows that a list in shared memory names, of which there is one at least; zeros behind the last.
    ///
    /// # Safety
    /// As [`TileCopy::whole`], for the rows listed; the list is there.
    #[inline(always)]
    pub(crate) unsafe fn gather(&self, smem: u32, rows: Gathered) {
        let mut row = self.row;
        for chunk in self.chunks(smem) {
            // SAFETY: the caller's. Nothing is there to read behind the end of the list.
            unsafe {
                let token = ld_shared_b32(rows.list + row.min(rows.count - 1) * 4);
                let source = self.source as i64 + (token as i64 - self.row as i64) * self.row_bytes as i64;
                cp_async_cg_16_zfill(chunk, source as u64, row < rows.count);
            }
            row += Self::ROWS_PER_PASS;
        }
    }
}
