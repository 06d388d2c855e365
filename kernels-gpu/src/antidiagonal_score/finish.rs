//! From sums of blocks, each relative to a maximum of its own, to scores.

use super::block_sums::{MT, Rows};
use crate::arch::global::{ld_global_v4_b32, st_global_b32};
use crate::arch::math::{ex2, fma};
use crate::arch::shared::{ld_shared_v4_b32, st_shared_v2_f32};
use crate::arch::{barrier, shuffle};
use crate::block_grid::BlockGrid;
use crate::forward::Thread;
use crate::softmax::Softmax;
use crate::tile_size::{ANTIDIAGONAL_SCORE, AntidiagonalTile, WARP};

const TILE: AntidiagonalTile = ANTIDIAGONAL_SCORE;
const STRIPS: u32 = TILE.strips();

/// A tile all of whose strips are in scratch.
pub(super) struct Finish {
    pub(super) grid: BlockGrid,
    /// The tile's first query block.
    pub(super) m_block: u32,
    /// Rows, from the first on, that exist and see something.
    pub(super) rows: u32,
    /// Strips in scratch.
    pub(super) strips: u32,
    pub(super) scratch: u64,
    /// The row of scores of query block 0.
    pub(super) scores: u64,
    /// Where maxima and sums are exchanged.
    pub(super) smem: u32,
}

impl Finish {
    /// Writes the scores of the tile. `row` is the warp's first row, `strip` its strip of a step.
    ///
    /// # Safety
    /// Reached by all threads of the CTA after the last strip's sums.
    #[inline(always)]
    pub(super) unsafe fn run<const G: usize>(&self, of_strip: &Rows, row: u32, strip: u32) {
        // SAFETY: the caller's.
        unsafe {
            let thread = Thread::current();
            self.exchange(of_strip, row, strip, thread);
            self.write::<G>(thread);
        }
    }

    /// The maxima of whole rows and the reciprocals of their sums, from those of the strips of a step.
    ///
    /// # Safety
    /// Reached by all threads of the CTA.
    #[inline(always)]
    unsafe fn exchange(&self, of_strip: &Rows, row: u32, strip: u32, thread: Thread) {
        let place = |strip: u32, row: u32| self.smem + (strip * TILE.tile_m + row) * 8;
        // SAFETY: the caller's; every place is written by one thread, and read after a barrier.
        unsafe {
            for i in 0..MT {
                for half in 0..2 {
                    let Softmax { row_max, row_sum } = of_strip.softmax(i, half);
                    if thread.lane % 4 == 0 {
                        let row = row + 16 * i as u32 + 8 * half as u32 + thread.lane / 4;
                        st_shared_v2_f32(place(strip, row), [row_max, row_sum]);
                    }
                }
            }
            barrier::sync();
            if thread.index < TILE.tile_m / 2 {
                // Two rows to a thread: 16 bytes.
                let row = 2 * thread.index;
                let mut of_strips = [[Softmax::START; 2]; STRIPS as usize];
                for (strip, of_strip) in (0..STRIPS).zip(&mut of_strips) {
                    let [a, b, c, d] = ld_shared_v4_b32(place(strip, row)).map(f32::from_bits);
                    *of_strip = [Softmax { row_max: a, row_sum: b }, Softmax { row_max: c, row_sum: d }];
                }
                for half in 0..2 {
                    let mut whole = Softmax::START;
                    for of_strip in &of_strips {
                        whole.row_max = whole.row_max.max(of_strip[half].row_max);
                    }
                    for of_strip in &of_strips {
                        let Softmax { row_max, row_sum } = of_strip[half];
                        whole.row_sum = fma(row_sum, ex2(row_max - whole.row_max), whole.row_sum);
                    }
                    let row = row + half as u32;
                    let weight = if row < self.rows { whole.normalizer() } else { 0.0 };
                    st_shared_v2_f32(place(STRIPS, row), [whole.row_max, weight]);
                }
            }
            barrier::sync();
        }
    }

    /// The scores: a lane has four rows, a warp every eighth strip.
    ///
    /// # Safety
    /// Reached by all lanes of the warp, after the exchange.
    #[inline(always)]
    unsafe fn write<const G: usize>(&self, thread: Thread) {
        const { assert!(G.is_multiple_of(4) && G <= 32 && TILE.tile_m == 4 * WARP) };
        let columns = const { AntidiagonalTile::STRIP / G as u32 };
        // The query block of the lane's rows.
        let m_block = self.m_block + thread.lane * 4 / G as u32;
        let exists = m_block < self.grid.m_blocks();
        let visible = if exists { self.grid.visible(m_block) } else { 0 };
        let scores = self.scores + if exists { self.grid.offset(m_block) * 4 } else { 0 };
        let is_first = (thread.lane * 4).is_multiple_of(G as u32);
        // The last of the tile's blocks sees the most.
        let last = self.grid.m_blocks().min(self.m_block + TILE.tile_m / G as u32) - 1;
        let strips = self.grid.visible(last).div_ceil(columns);
        // SAFETY: the caller's; scratch holds `self.strips` strips, rows of scores their visible blocks.
        unsafe {
            let place = self.smem + (STRIPS * TILE.tile_m + 4 * thread.lane) * 8;
            let [max_0, weight_0, max_1, weight_1] = ld_shared_v4_b32(place).map(f32::from_bits);
            let [max_2, weight_2, max_3, weight_3] = ld_shared_v4_b32(place + 16).map(f32::from_bits);
            let row_max = [max_0, max_1, max_2, max_3];
            let weights = [weight_0, weight_1, weight_2, weight_3];
            let mut strip = thread.warp;
            while strip < strips {
                let mut sums = [[0.0; 4]; AntidiagonalTile::STRIP as usize / 4];
                let sums = &mut sums[..AntidiagonalTile::STRIP as usize / G];
                if strip < self.strips {
                    let scratch = self.scratch
                        + strip as u64 * const { TILE.strip_floats(G as u32) as u64 * 4 }
                        + thread.lane as u64 * 16;
                    let maxima = ld_global_v4_b32(scratch).map(f32::from_bits);
                    for (column, sums) in (1u64..).zip(&mut *sums) {
                        *sums =
                            ld_global_v4_b32(scratch + column * (TILE.tile_m * 4) as u64).map(f32::from_bits);
                    }
                    let mut factors = [0.0; 4];
                    for j in 0..4 {
                        factors[j] = ex2(maxima[j] - row_max[j]) * weights[j];
                    }
                    for sums in &mut *sums {
                        let mut sum = sums[0] * factors[0];
                        for j in 1..4 {
                            sum = fma(sums[j], factors[j], sum);
                        }
                        if G > 4 {
                            sum += shuffle::bfly::<1>(sum);
                        }
                        if G > 8 {
                            sum += shuffle::bfly::<2>(sum);
                        }
                        if G > 16 {
                            sum += shuffle::bfly::<4>(sum);
                        }
                        sums[0] = sum;
                    }
                }
                for (n_block, sums) in (strip * columns..).zip(&*sums) {
                    if is_first && n_block < visible {
                        st_global_b32(scores + n_block as u64 * 4, sums[0].to_bits());
                    }
                }
                strip += TILE.threads / WARP;
            }
        }
    }
}
