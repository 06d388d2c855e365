//! Rows of any length.

use core::cell::Cell;

use super::sm80::Job;
use crate::arch::redux;
use crate::select::compact::{self, Place};
use crate::select::radix::{self, Cut};
use crate::select::{Cta, fixed, key};
use crate::tile_size::WARP;

/// Selects from one row.
///
/// # Safety
/// Reached by all threads of the CTA with the same row; shared memory of a selection by sum.
#[inline(always)]
pub(super) unsafe fn select<const WARPS: u32>(job: &Job, cta: Cta<WARPS>) {
    let (row, lane) = (job.row, cta.thread.lane);
    let (first, ranked) = (row.ranked.0, row.ranked.1 - row.ranked.0);
    // SAFETY: the caller's.
    unsafe {
        let mut cut = Cut::all(ranked);
        if !row.all {
            // Blocks that do not rank: the first, and what comes behind those that do; usually two or three.
            let (mut unranked, mut covered) = (0, 0);
            let mut add = |n: u32| {
                let weight = fixed::of(job.score(n));
                unranked += weight;
                covered += if row.counts(n) { weight } else { 0 };
            };
            if first > 0 && lane == 0 {
                add(0);
            }
            for n in (row.ranked.1 + lane..job.stored).step_by(WARP as usize) {
                add(n);
            }
            let (unranked, covered) = (redux::sum_u64(unranked), redux::sum_u64(covered));
            let (need, mut one_more) = (Cell::new(0), 0);
            // A second time for the published accounting, which takes one block more: then by number.
            loop {
                let by_number = one_more > 0;
                let missing = |ranked: u64| {
                    if by_number {
                        return one_more as u64;
                    }
                    need.set(fixed::share_ceil(job.threshold, ranked + unranked));
                    need.get().saturating_sub(covered)
                };
                let key = |i: u32| key::amount(job.score(first + i));
                let weight = |key: u32| if by_number { 1 } else { fixed::of_key(key) };
                cut = radix::by_weight(cta, ranked, missing, key, weight);
                if by_number || !row.quirk || need.get() == 0 || cut.count == ranked {
                    break;
                }
                one_more = cut.count + 1;
            }
        }
        let mut count = 0;
        let place =
            |n: u32| if row.ranks(n) { Place::of_key(key::amount(job.score(n)), cut) } else { Place::BELOW };
        compact::visit(cta, row.candidates, cut.ties, place, |first, taken, _| {
            let word = job.word(first, taken);
            count += word.count_ones();
            if lane == 0 {
                job.store_word(first / WARP, word);
            }
        });
        let rest = row.candidates.div_ceil(WARP) + cta.thread.index;
        for word in (rest..job.words).step_by(Cta::<WARPS>::THREADS as usize) {
            job.store_word(word, 0);
        }
        let count = cta.sum_of_warps(count);
        if cta.thread.index == 0 {
            job.store_count(count);
        }
    }
}
