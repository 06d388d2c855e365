//! The draw.

use super::row::{Row, slice_of};
use super::search::{inclusive_sum, slice_beyond, sum_of_thread, token_beyond};
use super::{control, weight};
use crate::arch::global::{ld_global_b32, ld_global_v2_b32, st_global_b32, st_global_v2_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::grid;
use crate::params::SampleParams;
use crate::select::{Cta, key};
use crate::tile_size::{SAMPLE_WARPS as WARPS, WARP};

const THREADS: u32 = WARPS * WARP;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn draw(
    logits: u64,
    top: u64,
    control: u64,
    slice_sums: u64,
    uniform: u64,
    out: u64,
    counters: u64,
    params: &SampleParams,
) {
    let [row_index, slice, _] = cta();
    let out = out + row_index as u64 * 4;
    // SAFETY: the caller's; the row's part of the workspace belongs to its CTAs.
    unsafe {
        let cta = Cta::<WARPS>::new(dynamic_smem());
        let index = cta.thread.index;
        if row_index == 0 && slice == 0 {
            grid::count_up(counters, params.counters, index, THREADS);
        }
        let Some(row) = Row::new(logits, top, control, row_index, params) else {
            if slice == 0 && index == 0 {
                st_global_b32(out, u32::MAX);
            }
            return;
        };
        let (threshold, last_tie) = (row.get(control::THRESHOLD), row.get(control::LAST_TIE));
        let logit_of = |token| row.logit(token);
        let weight_of = |token: u32, logit: f32| {
            let key = key::score(logit);
            if key < threshold || key == threshold && token > last_tie {
                return 0;
            }
            let weight = row.weight(logit);
            if weight >= params.least { weight } else { 0 }
        };
        let sums = slice_sums + row_index as u64 * params.slices as u64 * 8;
        let sum = sum_of_thread(slice_of(slice, params), index, THREADS, logit_of, weight_of);
        let (_, sum) = inclusive_sum(cta, sum);
        if index == 0 {
            st_global_v2_b32(sums + 8 * slice as u64, [sum as u32, (sum >> 32) as u32]);
        }
        if !grid::last(cta.thread, row.control + control::TICKET, params.slices) {
            return;
        }
        let mut of_slice = 0;
        if index < params.slices {
            let [low, high] = ld_global_v2_b32(sums + 8 * index as u64);
            of_slice = (high as u64) << 32 | low as u64;
        }
        let uniform = f32::from_bits(ld_global_b32(uniform + row_index as u64 * 4));
        let (slice, rest) = slice_beyond(cta, of_slice, |total| weight::goal(uniform, total));
        let token = token_beyond(cta, slice_of(slice, params), rest, logit_of, weight_of);
        if index == 0 {
            st_global_b32(out, token);
        }
    }
}
