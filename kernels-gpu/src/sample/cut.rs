//! The cut by top-k and top-p.

use super::row::{Row, slice_of};
use super::search::{inclusive_sum, sum_of_thread};
use super::{control, weight};
use crate::arch::atomic::atom_global_add_u32;
use crate::arch::global::{ld_global_b32, st_global_v2_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::arch::{redux, shuffle, vote};
use crate::grid;
use crate::params::SampleParams;
use crate::select::radix::{self, Cut};
use crate::select::{Cta, compact, key};
use crate::tile_size::{SAMPLE_SLICE, SAMPLE_SURVIVORS, SAMPLE_WARPS as WARPS, WARP};

const THREADS: u32 = WARPS * WARP;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn cut(logits: u64, top: u64, control: u64, survivors: u64, params: &SampleParams) {
    let [row_index, slice, _] = cta();
    // SAFETY: the caller's; the row's part of the workspace belongs to its CTAs.
    unsafe {
        let cta = Cta::<WARPS>::new(dynamic_smem());
        let Some(row) = Row::new(logits, top, control, row_index, params) else { return };
        let list = survivors + row_index as u64 * (8 * SAMPLE_SURVIVORS as u64);
        let count = row.get(control::SURVIVORS);
        let listed = count <= SAMPLE_SURVIVORS;
        if listed {
            list_slice(cta, &row, list, slice_of(slice, params));
        }
        if grid::last(cta.thread, row.control + control::TICKET, params.slices) {
            decide(cta, &row, if listed { list } else { 0 }, count, params);
        }
    }
}

/// Lists the tokens of a slice that may be kept.
///
/// # Safety
/// Reached by all threads of the CTA.
#[inline(always)]
unsafe fn list_slice(cta: Cta<WARPS>, row: &Row, list: u64, (first, end): (u32, u32)) {
    /// Groups of 32 tokens of a warp that are under way together.
    const BATCH: usize = (SAMPLE_SLICE / THREADS) as usize;
    let lane = cta.thread.lane;
    // SAFETY: the caller's; as many places as there are survivors are taken.
    unsafe {
        let level = row.get(control::LEVEL);
        let mut round = first;
        while round < end {
            let at = |j: usize| round + (cta.thread.warp * BATCH as u32 + j as u32) * WARP + lane;
            let logits: [f32; BATCH] = core::array::from_fn(|j| row.logit(at(j).min(end - 1)));
            let kept: [u32; BATCH] = core::array::from_fn(|j| {
                vote::ballot(at(j) < end && row.level_and_weight(logits[j]).0 <= level)
            });
            let count = kept.iter().fold(0, |count, kept| count + kept.count_ones());
            if count != 0 {
                let mut place = 0;
                if lane == 0 {
                    place = atom_global_add_u32(row.control + control::TAKEN, count);
                }
                place = shuffle::idx(place, 0);
                for j in 0..BATCH {
                    if kept[j] >> lane & 1 != 0 {
                        let place = place + compact::below(kept[j], lane);
                        st_global_v2_b32(list + 8 * place as u64, [key::score(logits[j]), at(j)]);
                    }
                    place += kept[j].count_ones();
                }
            }
            round += BATCH as u32 * THREADS;
        }
    }
}

/// Finds the cut among the `survivors` tokens of `list`, or, where that is 0, among all of the row.
///
/// # Safety
/// Reached by all threads of the CTA that came last.
#[inline(always)]
unsafe fn decide(cta: Cta<WARPS>, row: &Row, list: u64, survivors: u32, params: &SampleParams) {
    let listed = list != 0;
    let n = if listed { survivors } else { params.vocab_size };
    // Chosen without a branch, so that loads are under way together: pairs of the list, or the row's logits.
    let (entries, step) = if listed { (list, 8) } else { (row.logits, 4) };
    let key_of = |i: u32| {
        // SAFETY: an entry of the list, or a token of the row.
        let word = unsafe { ld_global_b32(entries + i as u64 * step) };
        if listed { word } else { key::score(f32::from_bits(word)) }
    };
    let token_of = |i: u32| match listed {
        // SAFETY: an entry of the list.
        true => unsafe { ld_global_b32(list + 8 * i as u64 + 4) },
        false => i,
    };
    let weight_of = |key: u32| row.weight(key::of_score(key));
    // SAFETY: the caller's.
    unsafe {
        let mut cut = Cut::all(n);
        let mut total = (row.get(control::TOTAL + 4) as u64) << 32 | row.get(control::TOTAL) as u64;
        if params.top_k != 0 {
            // One more entry, below all others: the key of the last token is found where all of the list are kept, too.
            let key_or_none = |i: u32| {
                let key = key_of(i.min(n - 1));
                if i < n { key } else { 0 }
            };
            cut = radix::by_count(cta, n + 1, params.top_k, key_or_none);
            let weight = |_, key| if key > cut.threshold { weight_of(key) } else { 0 };
            let above = sum_of_thread((0, n), cta.thread.index, THREADS, key_of, weight);
            let (_, above) = inclusive_sum(cta, above);
            total = above + cut.ties as u64 * weight_of(cut.threshold);
        }
        if params.top_p < 1.0 {
            let need = weight::need(params.top_p, total);
            cut = radix::by_weight(cta, n, |_| need, key_of, weight_of);
        }
        let tie = |_, key| (key == cut.threshold) as u64;
        let ties = sum_of_thread((0, n), cta.thread.index, THREADS, key_of, tie) as u32;
        let mut last_tie = u32::MAX;
        if cta.sum_of_warps(redux::add_u32(ties)) > cut.ties {
            // The lowest indices are the largest when inverted.
            let inverted = |i: u32| if key_of(i) == cut.threshold { !token_of(i) } else { 0 };
            last_tie = !radix::by_count(cta, n, cut.ties, inverted).threshold;
        }
        if cta.thread.index == 0 {
            row.set(control::TAKEN, 0);
            row.set(control::THRESHOLD, cut.threshold);
            row.set(control::LAST_TIE, last_tie);
        }
    }
}
