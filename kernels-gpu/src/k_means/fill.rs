//! Points for empty clusters: lowest cluster first, each takes the point farthest from its own centroid, out of a cluster
//! of more than one.

use super::rows::Points;
use super::{control, farthest};
use crate::arch::barrier;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::element::Element;
use crate::forward::Thread;
use crate::grid;
use crate::params::KMeansParams;
use crate::tile_size::{K_MEANS_POINTS, K_MEANS_THREADS, WARP};

const WARPS: u32 = K_MEANS_THREADS / WARP;

/// Addresses of a round.
pub(super) struct State {
    pub(super) centroids: u64,
    /// Room for `f32 [points]`.
    pub(super) distances: u64,
    pub(super) previous: u64,
    pub(super) next: u64,
    pub(super) control: u64,
    pub(super) counts: u64,
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn fill<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let tile = cta()[0];
    // SAFETY: the caller's; what the last CTA reads is ordered by its ticket.
    unsafe {
        if ld_global_b32(state.control + control::SETTLED) != 0
            || ld_global_b32(state.control + control::EMPTY) == 0
        {
            return;
        }
        let thread = Thread::current();
        let per_warp = K_MEANS_POINTS / WARPS;
        for p in 0..per_warp {
            let i = tile * K_MEANS_POINTS + thread.warp * per_warp + p;
            if i < params.points {
                let cluster = ld_global_b32(state.next + i as u64 * 4);
                let centroid = state.centroids + cluster as u64 * params.features as u64 * 4;
                let distance = points.distance_to::<E>(thread.lane, i, centroid);
                if thread.lane == 0 {
                    st_global_b32(state.distances + i as u64 * 4, distance.to_bits());
                }
            }
        }
        let tiles = params.points.div_ceil(K_MEANS_POINTS);
        if grid::last(thread, state.control + control::TICKET, tiles) {
            fill_all(thread, &state, params);
        }
    }
}

/// # Safety
/// Reached by all threads of the last CTA.
#[inline(always)]
unsafe fn fill_all(thread: Thread, state: &State, params: &KMeansParams) {
    let smem = dynamic_smem();
    let step = K_MEANS_THREADS as usize;
    // SAFETY: the caller's; the barriers of `grid::least` and the one of the loop order what one thread writes with what
    // the others read.
    unsafe {
        let count = |cluster: u32| ld_global_b32(state.counts + cluster as u64 * 4);
        let mut filled = 0;
        loop {
            let mut empty = u64::MAX;
            for c in (filled + thread.index..params.clusters).step_by(step) {
                if empty == u64::MAX && count(c) == 0 {
                    empty = c as u64;
                }
            }
            let empty = grid::least::<WARPS>(thread, smem, empty);
            if empty == u64::MAX {
                break;
            }
            let mut best = u64::MAX;
            for i in (thread.index..params.points).step_by(step) {
                if count(ld_global_b32(state.next + i as u64 * 4)) > 1 {
                    let distance = f32::from_bits(ld_global_b32(state.distances + i as u64 * 4));
                    best = best.min(farthest(distance, i));
                }
            }
            let point = grid::least::<WARPS>(thread, smem, best) as u32;
            if thread.index == 0 {
                let old = state.next + point as u64 * 4;
                let from = ld_global_b32(old);
                st_global_b32(state.counts + from as u64 * 4, count(from) - 1);
                st_global_b32(state.counts + empty * 4, 1);
                st_global_b32(old, empty as u32);
            }
            barrier::sync();
            filled = empty as u32 + 1;
        }
        let mut changed = false;
        for i in (thread.index..params.points).step_by(step) {
            let at = i as u64 * 4;
            changed |= ld_global_b32(state.next + at) != ld_global_b32(state.previous + at);
        }
        let changed = barrier::sync_any(changed);
        if thread.index == 0 {
            st_global_b32(state.control + control::SETTLED, (!changed).into());
        }
    }
}
