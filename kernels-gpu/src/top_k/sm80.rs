//! Kernels for compute capability 8.0 and later.

use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::params::{SearchSequence, TokenTopKParams, TopKParams};
use crate::select::compact::{self, Place};
use crate::select::{Cta, key, radix};
use crate::tile_size::{SELECT_WARPS, WARP};

/// Writes the indices of the `k` largest of the entries `0..n` by their keys, ascending: `write(place in the list, index)`.
/// Returns how many there are, the smaller of `k` and `n`.
///
/// # Safety
/// As [`radix::by_count`]; shared memory of a selection by count.
#[inline(always)]
unsafe fn row<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    k: u32,
    key: impl Fn(u32) -> u32,
    write: impl Fn(u32, u32),
) -> u32 {
    let lane = cta.thread.lane;
    // SAFETY: the caller's.
    unsafe {
        let cut = radix::by_count(cta, n, k, &key);
        compact::visit(
            cta,
            n,
            cut.ties,
            |i| Place::of_key(key(i), cut),
            |first, kept, position| {
                if kept >> lane & 1 != 0 {
                    write(position + compact::below(kept, lane), first + lane);
                }
            },
        );
        cut.count
    }
}

kernel! {
    fn top_k(scores: u64, forced: u64, indices: u64, params: TopKParams) {
        let row_index = cta()[0] as u64;
        let scores = scores + row_index * params.row_stride * 4;
        let indices = indices + row_index * params.k as u64 * 4;
        // SAFETY: see `crate::kernel`; the row and its list are the CTA's alone.
        unsafe {
            let cta = Cta::<SELECT_WARPS>::new(dynamic_smem());
            let score = |i: u32| key::score(load(scores, i));
            let write = |place: u32, i: u32| st_global_b32(indices + 4 * place as u64, i);
            if forced == 0 {
                row(cta, params.n, params.k, score, write);
                return;
            }
            let key = |i: u32| {
                let (score, word) = (score(i), ld_global_b32(forced + 4 * (i / WARP) as u64));
                if word >> (i % WARP) & 1 != 0 { key::FORCED } else { score }
            };
            row(cta, params.n, params.k, key, write);
        }
    }
}

kernel! {
    fn top_k_tokens(
        scores: u64,
        sequences: *const SearchSequence,
        indices: u64,
        counts: u64,
        params: TokenTopKParams,
    ) {
        let [_, head, b] = cta();
        // SAFETY: see `crate::kernel`; the row and its list are the CTA's alone.
        unsafe {
            let sequence = sequences.add(b as usize);
            let (k_start, n) = ((*sequence).k_start, (*sequence).k_len);
            let first = params.num_heads as u64 * k_start as u64 + head as u64 * n as u64;
            let scores = scores + 4 * first;
            let list = (b * params.num_heads + head) as u64;
            let indices = indices + list * params.k as u64 * 4;
            let count = if n < params.k { n } else { params.k };

            let cta = Cta::<SELECT_WARPS>::new(dynamic_smem());
            let key = |i: u32| {
                let score = key::score(load(scores, i));
                if i < params.forced { key::FORCED } else { score }
            };
            let write = |place: u32, i: u32| {
                let place = if params.descending != 0 { count - 1 - place } else { place };
                st_global_b32(indices + 4 * place as u64, i);
            };
            row(cta, n, params.k, key, write);
            if cta.thread.index == 0 {
                st_global_b32(counts + 4 * list, count);
            }
        }
    }
}

/// Entry `i` of a row of scores.
///
/// # Safety
/// It lies inside the row's buffer; `i` is below 2^30.
#[inline(always)]
unsafe fn load(scores: u64, i: u32) -> f32 {
    // SAFETY: the caller's.
    f32::from_bits(unsafe { ld_global_b32(scores + (4 * i) as u64) })
}
