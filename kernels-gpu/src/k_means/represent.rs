//! The member that stands for each cluster.

use super::rows::{Points, load_f32};
use super::{control, least, members};
use crate::arch::atomic::red_global_or_b32;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::math::fma;
use crate::arch::shared::{dynamic_smem, ld_shared_b32, st_shared_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, shuffle};
use crate::element::Element;
use crate::forward::Thread;
use crate::grid;
use crate::params::KMeansParams;
use crate::tile_size::{K_MEANS_SEGMENT, K_MEANS_THREADS, WARP};

const WARPS: u32 = K_MEANS_THREADS / WARP;

/// Addresses of the last step.
pub(super) struct State {
    pub(super) centroids: u64,
    pub(super) assignment: u64,
    /// A bit for every point.
    pub(super) flags: u64,
    pub(super) representatives: u64,
    pub(super) control: u64,
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn represent<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let cluster = cta()[0];
    let smem = dynamic_smem();
    // SAFETY: the caller's; the list is read and written between barriers, and what the last CTA reads is ordered by its
    // ticket.
    unsafe {
        let thread = Thread::current();
        let centroid = state.centroids + cluster as u64 * params.features as u64 * 4;
        let mut best = u64::MAX;
        for base in (0..params.points).step_by(K_MEANS_SEGMENT as usize) {
            let found = members::list(thread, smem, state.assignment, params.points, base, cluster);
            for at in (thread.warp..found).step_by(WARPS as usize) {
                let point = ld_shared_b32(smem + at * 4);
                let cost = if params.cosine != 0 {
                    let feature_of = |feature: u32| load_f32(centroid + feature as u64 * 4);
                    let dot = points.sum::<E>(thread.lane, point, feature_of, |sum, x, c| fma(x, c, sum));
                    -(points.scale(point) * dot)
                } else {
                    points.distance_to::<E>(thread.lane, point, centroid)
                };
                best = best.min(least(cost, point));
            }
            barrier::sync();
        }
        let point = grid::least::<WARPS>(thread, smem, best) as u32;
        if thread.index == 0 {
            red_global_or_b32(state.flags + (point / WARP) as u64 * 4, 1 << (point % WARP));
        }
        if grid::last(thread, state.control + control::TICKET, params.clusters) {
            list_flags(thread, smem, &state, params.points.div_ceil(WARP));
        }
    }
}

/// Writes the points whose flags are set, in ascending order.
///
/// # Safety
/// Reached by all threads of the last CTA, with `4 WARPS` bytes of shared memory.
#[inline(always)]
unsafe fn list_flags(thread: Thread, smem: u32, state: &State, words: u32) {
    // SAFETY: the caller's.
    unsafe {
        let per_thread = words.div_ceil(K_MEANS_THREADS);
        let first = (thread.index * per_thread).min(words);
        let end = (first + per_thread).min(words);
        let flags = |word: u32| ld_global_b32(state.flags + word as u64 * 4);
        let mut own = 0;
        for word in first..end {
            own += flags(word).count_ones();
        }
        let sum = shuffle::inclusive_sum_u32(own, thread.lane);
        if thread.lane == WARP - 1 {
            st_shared_b32(smem + thread.warp * 4, sum);
        }
        barrier::sync();
        let mut place = sum - own;
        for warp in 0..thread.warp {
            place += ld_shared_b32(smem + warp * 4);
        }
        for word in first..end {
            let mut left = flags(word);
            while left != 0 {
                let point = word * WARP + left.trailing_zeros();
                st_global_b32(state.representatives + place as u64 * 4, point);
                (left, place) = (left & (left - 1), place + 1);
            }
        }
    }
}
