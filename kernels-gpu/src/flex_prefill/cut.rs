//! Where the map of a query-aware head covers gamma.

use super::head::Head;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::dynamic_smem;
use crate::params::{FlexHead, FlexPrefillParams, SearchSequence};
use crate::select::compact::{self, Place};
use crate::select::{Cta, fixed, key, radix};
use crate::tile_size::{FLEX_SCAN_THREADS, WARP};

const WARPS: u32 = FLEX_SCAN_THREADS / WARP;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn cut(
    map: u64,
    heads: u64,
    sequences: *const SearchSequence,
    first_blocks: *const u32,
    params: &FlexPrefillParams,
) {
    // SAFETY: the caller's; the CTA leaves or stays as one.
    unsafe {
        let head = Head::current(sequences, first_blocks, params);
        if head.kind(heads) != FlexHead::QUERY_AWARE {
            return;
        }
        let cta = Cta::<WARPS>::new(dynamic_smem());
        let map = map + head.map() * 4;
        let entries = head.sequence.blocks_step as u32;
        let value = |i: u32| f32::from_bits(ld_global_b32(map + i as u64 * 4));
        // Every row adds up to 1.
        let rows = head.grid.m_blocks() as u64;
        let limit = fixed::share_floor(params.gamma, rows << fixed::FRACTION_BITS);
        let mut cut = radix::by_sum(cta, entries, |_| limit + 1, value);
        // The entry that passes the limit is not kept.
        cut.ties -= cut.reached as u32;
        // The bits of the entries from `first` on take the place of an entry that all warps have read: that of a round
        // before, or, in the first, before the barrier.
        compact::visit(
            cta,
            entries,
            cut.ties,
            |i| Place::of_key(key::amount(value(i)), cut),
            |first, kept, _| {
                if cta.thread.lane == 0 {
                    st_global_b32(map + (first / WARP) as u64 * 4, kept);
                }
            },
        );
    }
}

kernel! {
    fn flex_prefill_cut(map: u64, heads: u64, sequences: *const SearchSequence,
    first_blocks: *const u32, params: FlexPrefillParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { cut(map, heads, sequences, first_blocks, &params) }
    }
}
