//! Decisions become rows of the bitmask.

use super::head::Head;
use super::row::{below, bits_at, diagonals};
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shuffle;
use crate::arch::special_register::cta;
use crate::forward::Thread;
use crate::params::{FlexHead, FlexPrefillParams, SearchSequence};
use crate::tile_size::{FLEX_ROWS, WARP};

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn rows(
    columns: u64,
    group_bits: u64,
    heads: u64,
    map: u64,
    bitmask: u64,
    counts: u64,
    sequences: *const SearchSequence,
    first_blocks: *const u32,
    params: &FlexPrefillParams,
) {
    // SAFETY: the caller's; a warp leaves or stays as one.
    unsafe {
        let Thread { warp, lane, .. } = Thread::current();
        let head = Head::current(sequences, first_blocks, params);
        let grid = head.grid;
        let m = cta()[0] * FLEX_ROWS + warp;
        if m >= grid.m_blocks() {
            return;
        }
        let kind = head.kind(heads);
        let by_map = kind == FlexHead::QUERY_AWARE;
        let by_columns = !(by_map && params.has(FlexPrefillParams::QA_ONLY));
        let (columns, group_bits) = (columns + head.first_word * 4, group_bits + head.first_word * 4);
        let words = head.words();
        let (visible, diagonal) = (grid.visible(m), grid.diagonal(m));
        let (first, last) = diagonals(&grid, m, params.has(FlexPrefillParams::SLASH_COVER));
        // Group `s` is bit `origin - s`: what counts for block `n` and `n + s = u` is bit `n + origin - u`.
        let tail_align = params.has(FlexPrefillParams::TAIL_ALIGN);
        let origin = if tail_align { grid.n_blocks() } else { words * WARP }.wrapping_sub(1);
        let map = map + head.map() * 4;
        let map_words = head.sequence.blocks_step.div_ceil(WARP as u64);

        let search = &head.sequence;
        let row = (search.mask_row + head.head * search.mask_row_step + m) as u64;
        let bitmask = bitmask + row * params.words as u64 * 4;
        let mut count = 0;
        let mut word = lane;
        while word < params.words {
            let seen = below(visible, word);
            let mut keep = seen;
            if kind != FlexHead::DENSE && seen != 0 {
                keep = !below(diagonal, word);
                if word == 0 {
                    keep |= 1;
                }
                if by_columns {
                    keep |= ld_global_b32(columns + word as u64 * 4);
                    let mut u = first;
                    while u <= last {
                        let at = word as u64 * WARP as u64 + (origin - u) as u64;
                        keep |= bits_at(at, words as u64, |w| ld_global_b32(group_bits + w * 4));
                        u += 1;
                    }
                }
                if by_map {
                    let at = head.map_row(m) + word as u64 * WARP as u64;
                    keep |= bits_at(at, map_words, |w| ld_global_b32(map + w * 4));
                }
                keep &= seen;
            }
            st_global_b32(bitmask + word as u64 * 4, keep);
            count += keep.count_ones();
            word += WARP;
        }
        let count = shuffle::inclusive_sum_u32(count, lane);
        if lane == WARP - 1 {
            st_global_b32(counts + row * 4, count);
        }
    }
}

kernel! {
    fn flex_prefill_rows(
        columns: u64,
        diagonals: u64,
        heads: u64,
        map: u64,
        bitmask: u64,
        counts: u64,
        sequences: *const SearchSequence,
    first_blocks: *const u32,
        params: FlexPrefillParams,
    ) {
        // SAFETY: see `crate::kernel`.
        unsafe { rows(columns, diagonals, heads, map, bitmask, counts, sequences, first_blocks, &params) }
    }
}
