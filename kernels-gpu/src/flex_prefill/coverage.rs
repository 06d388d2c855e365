//! How many tokens cover gamma, and the sums of blocks.

use super::head::Head;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::shuffle;
use crate::arch::special_register::cta;
use crate::params::{FlexPrefillParams, SearchSequence};
use crate::select::{Cta, fixed, radix};
use crate::tile_size::{FLEX_SCAN_THREADS, WARP};

const WARPS: u32 = FLEX_SCAN_THREADS / WARP;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn coverage(
    vertical: u64,
    slash: u64,
    counts: u64,
    column_sums: u64,
    slash_sums: u64,
    sequences: *const SearchSequence,
    first_blocks: *const u32,
    params: &FlexPrefillParams,
) {
    // SAFETY: the caller's; the CTA leaves or stays as one.
    unsafe {
        let is_slash = cta()[0] == 1;
        let head = Head::current(sequences, first_blocks, params);
        let (q_len, k_len) = (head.grid.q_len, head.grid.k_len);
        if params.attends_densely(q_len, k_len) {
            return;
        }
        let (scores, sums) = if is_slash { (slash, slash_sums) } else { (vertical, column_sums) };
        let scores = scores + head.scores(params) * 4;
        let score = |token: u32| f32::from_bits(ld_global_b32(scores + token as u64 * 4));

        let cta = Cta::<WARPS>::new(dynamic_smem());
        // Scores are sums over the probe rows, whose means the rule speaks of.
        let rows = params.probe_rows(q_len) as u64;
        let limit = fixed::share_floor(params.gamma, rows << fixed::FRACTION_BITS);
        let count = radix::count_within(cta, k_len, limit, score);
        if cta.thread.index == 0 {
            st_global_b32(counts + (head.index as u64 * 2 + is_slash as u64) * 4, count);
        }

        let reversed = is_slash && params.has(FlexPrefillParams::TAIL_ALIGN);
        let sums = sums + head.first_block * 4;
        let mut block = cta.thread.warp;
        while block < head.grid.n_blocks() {
            let mut sum = 0.0;
            for first in (0..params.block).step_by(WARP as usize) {
                let token = block * params.block + first + cta.thread.lane;
                if token < k_len {
                    sum += score(if reversed { k_len - 1 - token } else { token });
                }
            }
            let sum = shuffle::warp_sum(sum);
            if cta.thread.lane == 0 {
                st_global_b32(sums + block as u64 * 4, sum.to_bits());
            }
            block += WARPS;
        }
    }
}

kernel! {
    fn flex_prefill_coverage(
        vertical: u64,
        slash: u64,
        counts: u64,
        column_sums: u64,
        slash_sums: u64,
        sequences: *const SearchSequence,
    first_blocks: *const u32,
        params: FlexPrefillParams,
    ) {
        // SAFETY: see `crate::kernel`.
        unsafe { coverage(vertical, slash, counts, column_sums, slash_sums, sequences, first_blocks, &params) }
    }
}
