//! From the logits of a strip to sums over blocks.

use super::groups::Groups;
use crate::arch::global::st_global_b32;
use crate::arch::math::{ex2, fma, rcp};
use crate::arch::shuffle;
use crate::forward::Thread;
use crate::softmax::Softmax;
use crate::tile_size::ANTIDIAGONAL_SCORE;

/// Fragments of 16 rows, and of 8 groups of keys, of a warp.
pub(super) const MT: usize = 4;
pub(super) const NT: usize = 8;

const TILE_M: u32 = ANTIDIAGONAL_SCORE.tile_m;

/// The logits of a warp, not yet scaled.
pub(super) type Logits = [[[f32; 4]; NT]; MT];

/// The rows of a warp's half of a tile over its strips of the keys.
pub(super) struct Rows {
    /// Running maxima and sums; the sums are whole in every lane of a quad.
    softmax: [[Softmax; 2]; MT],
}

/// The strip at hand.
pub(super) struct Strip {
    /// The warp's first row in the tile, and the group of queries that it is.
    pub(super) row: u32,
    pub(super) q_group: u32,
    /// The strip's first group of keys.
    pub(super) k_group: u32,
    /// Where its maxima and sums go: `[1 + 64 / G][tile_m]` floats.
    pub(super) scratch: u64,
}

impl Strip {
    /// Whether some row of the warp sees some group of the strip.
    #[inline(always)]
    pub(super) fn is_seen(&self, groups: &Groups) -> bool {
        let rows = groups.queries as i32 - self.q_group as i32;
        let last = self.q_group as i32 + rows.min(16 * MT as i32) - 1;
        rows > 0 && groups.limit(last as u32) > self.k_group as i32
    }

    /// Whether all rows of the warp see all groups of the strip, and all means are over whole groups of keys.
    #[inline(always)]
    fn is_whole(&self, groups: &Groups) -> bool {
        let end = self.k_group as i32 + 8 * NT as i32;
        let keys = groups.keys as i32 - if groups.is_whole() { 0 } else { 1 };
        end <= keys.min(groups.limit(self.q_group))
    }
}

impl Rows {
    pub(super) const START: Self = Self { softmax: [[Softmax::START; 2]; MT] };

    /// The state of the row in fragment `i`, at `2 * half` and the next.
    #[inline(always)]
    pub(super) fn softmax(&self, i: usize, half: usize) -> Softmax {
        self.softmax[i][half]
    }

    /// Takes the rows over a strip, and leaves its maxima and sums in scratch. `G` groups make a block.
    ///
    /// # Safety
    /// Reached by all lanes of the warp, with the strip's scratch its own.
    #[inline(always)]
    pub(super) unsafe fn add<const G: usize>(
        &mut self,
        logits: &mut Logits,
        strip: &Strip,
        groups: &Groups,
        scale_log2: f32,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let thread = Thread::current();
            scale(logits, strip, groups, scale_log2, thread);
            for i in 0..MT {
                for half in 0..2 {
                    let row = strip.row + 16 * i as u32 + 8 * half as u32 + thread.lane / 4;
                    let scratch = strip.scratch + row as u64 * 4;
                    let mut values = [0.0; 2 * NT];
                    for n in 0..NT {
                        values[2 * n] = logits[i][n][2 * half];
                        values[2 * n + 1] = logits[i][n][2 * half + 1];
                    }
                    self.softmax[i][half] = add_row::<G>(self.softmax[i][half], values, thread, scratch);
                }
            }
        }
    }
}

/// Sums over pairs to means, in base 2 and scaled; `-inf` where a row does not see a group.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
unsafe fn scale(logits: &mut Logits, strip: &Strip, groups: &Groups, scale_log2: f32, thread: Thread) {
    let whole = strip.is_whole(groups);
    let k_group = (strip.k_group + thread.column()) as i32;
    let last = groups.keys as i32 - 1 - k_group;
    for i in 0..MT {
        for half in 0..2 {
            let q_group = strip.q_group + 16 * i as u32 + 8 * half as u32 + thread.lane / 4;
            // Rows past the last query have no pairs: infinity times their zeros would be NaN.
            let factor = scale_log2 * rcp(groups.pairs(q_group, false).max(1) as f32);
            if whole {
                for n in 0..NT {
                    logits[i][n][2 * half] *= factor;
                    logits[i][n][2 * half + 1] *= factor;
                }
            } else {
                let last_factor = scale_log2 * rcp(groups.pairs(q_group, true).max(1) as f32);
                let limit = groups.limit(q_group) - k_group;
                for n in 0..NT {
                    for c in 0..2 {
                        let at = (8 * n + c) as i32;
                        let logit = &mut logits[i][n][2 * half + c];
                        *logit *= if at == last { last_factor } else { factor };
                        if at >= limit {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

/// One row: its state after the strip. `values` are the lane's 16 logits.
///
/// # Safety
/// As [`Rows::add`]; `scratch` is the place of the row's maximum.
#[inline(always)]
unsafe fn add_row<const G: usize>(
    softmax: Softmax,
    values: [f32; 2 * NT],
    thread: Thread,
    scratch: u64,
) -> Softmax {
    let quad_lane = thread.lane % 4;
    let mut row_max = softmax.row_max;
    for n in 0..NT {
        row_max = row_max.max(values[2 * n].max(values[2 * n + 1]));
    }
    // SAFETY: the caller's.
    unsafe {
        let row_max = shuffle::quad_max(row_max);
        let store = |block: u32, value: f32| {
            st_global_b32(scratch + ((1 + block) * TILE_M * 4) as u64, value.to_bits());
        };
        let (mut block_sum, mut strip_sum) = (0.0, 0.0);
        for n in 0..NT {
            block_sum += ex2(values[2 * n] - row_max) + ex2(values[2 * n + 1] - row_max);
            if (8 * (n + 1)) % G != 0 {
                continue;
            }
            block_sum += shuffle::bfly::<1>(block_sum);
            if G == 4 {
                // Two blocks of two lanes each.
                if quad_lane % 2 == 0 {
                    store(2 * n as u32 + quad_lane / 2, block_sum);
                }
                block_sum += shuffle::bfly::<2>(block_sum);
            } else {
                block_sum += shuffle::bfly::<2>(block_sum);
                if quad_lane == 0 {
                    store((8 * n / G) as u32, block_sum);
                }
            }
            strip_sum += block_sum;
            block_sum = 0.0;
        }
        if quad_lane == 0 {
            st_global_b32(scratch, row_max.to_bits());
        }
        // Sums of blocks, then of strips, then of the row: as many roundings as a row has strips.
        let row_sum = fma(softmax.row_sum, ex2(softmax.row_max - row_max), strip_sum);
        Softmax { row_max, row_sum }
    }
}
