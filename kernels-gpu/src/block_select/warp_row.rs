//! Rows that fit the registers of a warp.

use super::rule::Row;
use super::sm80::Job;
use crate::arch::{opaque, redux, vote};
use crate::select::{compact, fixed, key};
use crate::tile_size::{BLOCK_SELECT_WARP_BLOCKS, WARP};

/// Scores of a lane: lane `l` has blocks `l`, `32 + l`, ... of the row.
const SCORES: usize = (BLOCK_SELECT_WARP_BLOCKS / WARP) as usize;
/// They are looked at so many at a time, as far as the row goes.
const BATCH: usize = 8;

/// Calls `$body` for every `$i` in `0..SCORES` whose blocks begin before `$end`, in whole batches. Unrolled: the scores stay
/// in registers.
macro_rules! for_scores {
    ($i:ident before $end:expr, $body:block) => {
        for batch in 0..SCORES / BATCH {
            if ((batch * BATCH) as u32 * WARP) < $end {
                for place in 0..BATCH {
                    let $i = batch * BATCH + place;
                    $body
                }
            }
        }
    };
}

/// A row spread over the lanes of a warp.
struct Lanes {
    /// Keys of the scores; 0 beyond the row.
    keys: [u32; SCORES],
    /// Their fixed-point values where blocks are ranked, 0 elsewhere.
    weights: [u64; SCORES],
    stored: u32,
}

/// Blocks with greater keys are taken, and of those with this key the first `ties`.
#[derive(Clone, Copy)]
struct Cut {
    threshold: u32,
    ties: u32,
}

const ALL: Cut = Cut { threshold: 0, ties: u32::MAX };
const NONE: Cut = Cut { threshold: u32::MAX, ties: 0 };

/// Selects from one row.
///
/// # Safety
/// Reached by all lanes of the warp with the same row, of at most [`BLOCK_SELECT_WARP_BLOCKS`] scores; `lane` is the
/// caller's lane.
#[inline(always)]
pub(super) unsafe fn select(job: &Job, lane: u32) {
    // SAFETY: the caller's.
    unsafe {
        let row = job.row;
        let mut lanes = Lanes { keys: [0; SCORES], weights: [0; SCORES], stored: job.stored };
        let mut cut = ALL;
        if !row.all {
            // The row's sum, what is covered from the start, and the sum of what ranks.
            let (mut total, mut covered, mut ranked) = (0, 0, 0);
            for_scores!(i before job.stored, {
                let n = i as u32 * WARP + lane;
                if n < job.stored {
                    let key = key::amount(job.score(n));
                    let weight = fixed::of_key(key);
                    total += weight;
                    covered += if row.counts(n) { weight } else { 0 };
                    lanes.keys[i] = key;
                    lanes.weights[i] = if row.ranks(n) { weight } else { 0 };
                    ranked += lanes.weights[i];
                }
            });
            let need = fixed::share_ceil(job.threshold, redux::sum_u64(total));
            let missing = need.saturating_sub(redux::sum_u64(covered));
            cut = lanes.cut(missing, redux::sum_u64(ranked));
            if row.quirk && need > 0 {
                cut = lanes.one_more(row, cut, lane);
            }
        }
        store(job, &lanes, cut, lane);
    }
}

impl Lanes {
    /// Where the sum of the ranked scores in descending order reaches `missing`; `ranked` is the sum of them all.
    #[inline(always)]
    unsafe fn cut(&self, missing: u64, ranked: u64) -> Cut {
        if missing == 0 {
            return NONE;
        }
        if ranked < missing {
            return ALL;
        }
        // SAFETY: reached by all lanes: both sums are the warp's.
        unsafe {
            let mut threshold = 0;
            // Opaque: 31 copies of the sum over the row would not fit the instruction cache.
            let mut bit = opaque(1 << 30);
            while bit != 0 {
                let candidate = threshold | bit;
                if redux::sum_u64(self.weight_from(candidate)) >= missing {
                    threshold = candidate;
                }
                bit >>= 1;
            }
            let above = redux::sum_u64(self.weight_from(threshold + 1));
            // The sum from the threshold on reaches what is missing, that above it does not: the weight is not 0.
            let weight = fixed::of_key(threshold);
            let ties = if weight == 0 { 0 } else { (missing - above).div_ceil(weight) as u32 };
            Cut { threshold, ties }
        }
    }

    /// The sum of this lane's ranked scores with keys of at least `least`.
    #[inline(always)]
    fn weight_from(&self, least: u32) -> u64 {
        let mut sum = 0;
        for_scores!(i before self.stored, {
            sum += if self.keys[i] >= least { self.weights[i] } else { 0 };
        });
        sum
    }

    /// A cut that takes one more block.
    #[inline(always)]
    unsafe fn one_more(&self, row: Row, cut: Cut, lane: u32) -> Cut {
        let (mut tying, mut next) = (0, 0);
        for_scores!(i before self.stored, {
            if row.ranks(i as u32 * WARP + lane) {
                tying += (self.keys[i] == cut.threshold) as u32;
                // One more than the key, so that 0 is none.
                next = next.max(if self.keys[i] < cut.threshold { self.keys[i] + 1 } else { 0 });
            }
        });
        // SAFETY: the caller's.
        let (tying, next) = unsafe { (redux::add_u32(tying), redux::max_u32(next)) };
        if cut.ties < tying {
            Cut { ties: cut.ties + 1, ..cut }
        } else if next > 0 {
            Cut { threshold: next - 1, ties: 1 }
        } else {
            cut
        }
    }
}

/// Stores the row's bits and how many there are: lane `l` has word `l`.
#[inline(always)]
unsafe fn store(job: &Job, lanes: &Lanes, cut: Cut, lane: u32) {
    let (mut taken, mut ties_before) = (0, 0);
    // SAFETY: the caller's.
    unsafe {
        for_scores!(i before job.row.candidates, {
            let ranks = job.row.ranks(i as u32 * WARP + lane);
            let above = vote::ballot(ranks && lanes.keys[i] > cut.threshold);
            let tying = vote::ballot(ranks && lanes.keys[i] == cut.threshold);
            let kept = above | compact::lowest(tying, cut.ties.saturating_sub(ties_before), lane);
            ties_before += tying.count_ones();
            taken = if lane == i as u32 { kept } else { taken };
        });
        let word = job.word(lane * WARP, taken);
        if lane < job.words {
            job.store_word(lane, word);
        }
        let count = redux::add_u32(word.count_ones());
        if lane == 0 {
            job.store_count(count);
        }
    }
}
