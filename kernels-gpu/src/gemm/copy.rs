//! Copies of the operands from global to shared memory, a step of features at a time.

use crate::arch::copy_sm80::cp_async_cg_16_zfill;
use crate::smem::{STRIP_ROW_BYTES, chunk_offset};
use crate::tile_size::{GEMM_TILE_K, GemmTile};

/// Slices of a step: 16 features of products, and a part of the copies of another step.
pub(super) const SLICES: u32 = GEMM_TILE_K / 16;

/// Rows of which all threads of the CTA copy one step, a chunk of 16 bytes each.
const fn pass_rows(tile: GemmTile) -> u32 {
    tile.threads / 8
}

/// A thread's part of the copies of an operand: one chunk of 16 bytes of a row in each pass.
struct Operand {
    /// The thread's chunk of its first row, in the step that is copied next.
    source: u64,
    /// From there to the row that is next.
    next: u64,
    pass_bytes: u64,
    /// How many rows there are from the thread's first one on; none if it is not positive.
    rows: i32,
    /// The place of the thread's first chunk in a stage.
    target: u32,
}

impl Operand {
    #[inline(always)]
    fn new(tile: GemmTile, thread: u32, place: u32, from: Source) -> Self {
        let (row, chunk) = (thread / 8, thread % 8);
        let source = from.address + row as u64 * from.row_bytes + chunk as u64 * 16;
        Self {
            source,
            next: source,
            pass_bytes: pass_rows(tile) as u64 * from.row_bytes,
            rows: from.rows as i32 - row as i32,
            // Passes are of whole groups of 8 rows, in which chunks lie alike.
            target: place + chunk_offset(8, row, chunk),
        }
    }

    /// Begins the copies of a slice's part of `tile_rows` rows; rows from `rows` on become zeros.
    ///
    /// # Safety
    /// What there is can be read; nothing accesses the stage until the copies have been waited for.
    #[inline(always)]
    unsafe fn copy<const SLICE: u32>(&mut self, tile: GemmTile, tile_rows: u32, stage: u32, rows: i32) {
        let passes = tile_rows / pass_rows(tile);
        // A ring of two stages leaves the copies no time but what is left of the step: all of them begin at once.
        let slices = if tile.stages == 2 { 1 } else { SLICES };
        for pass in (SLICE * passes / slices).min(passes)..((SLICE + 1) * passes / slices).min(passes) {
            let first = pass * pass_rows(tile);
            // SAFETY: the caller's.
            unsafe {
                let target = self.target + stage + first * STRIP_ROW_BYTES;
                cp_async_cg_16_zfill(target, self.next, (first as i32) < rows);
            }
            self.next += self.pass_bytes;
        }
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.source += STRIP_ROW_BYTES as u64;
        self.next = self.source;
    }
}

/// A thread's part of the copies of both operands.
pub(super) struct Copies {
    x: Operand,
    weight: Operand,
    /// Features from the thread's first one of the step on.
    features: i32,
    tile: GemmTile,
}

/// The rows of an operand that a tile is made of: the first feature of the first row, and how many there are.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) address: u64,
    pub(super) row_bytes: u64,
    pub(super) rows: u32,
}

impl Copies {
    /// Of `features` features. Steps beyond them are zeros, for which nothing is read.
    #[inline(always)]
    pub(super) fn new(tile: GemmTile, thread: u32, x: Source, weight: Source, features: u32) -> Self {
        Self {
            x: Operand::new(tile, thread, 0, x),
            weight: Operand::new(tile, thread, tile.tile_m * STRIP_ROW_BYTES, weight),
            features: features as i32 - (thread % 8 * 8) as i32,
            tile,
        }
    }

    /// Begins a slice's part of the copies of the next step, into the stage at `stage`.
    ///
    /// # Safety
    /// As [`Operand::copy`].
    #[inline(always)]
    pub(super) unsafe fn slice<const SLICE: u32>(&mut self, stage: u32) {
        let rows = |operand: &Operand| if self.features > 0 { operand.rows } else { 0 };
        let (rows_x, rows_weight) = (rows(&self.x), rows(&self.weight));
        // SAFETY: the caller's.
        unsafe {
            self.x.copy::<SLICE>(self.tile, self.tile.tile_m, stage, rows_x);
            self.weight.copy::<SLICE>(self.tile, self.tile.tile_n, stage, rows_weight);
        }
    }

    /// Goes on to the step behind.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        self.x.advance();
        self.weight.advance();
        self.features -= GEMM_TILE_K as i32;
    }
}
