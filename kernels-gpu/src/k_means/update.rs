//! Centroids: the means of the clusters' members, or the points to start from.

use super::rows::{Points, STEP, unpack};
use super::{control, members};
use crate::arch::global::{ld_global_b32, ld_global_v4_b32, st_global_b32, st_global_v4_b32};
use crate::arch::math::{div_rem, fma};
use crate::arch::shared::{dynamic_smem, ld_shared_b32, ld_shared_f32, st_shared_b32, st_shared_v4_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, shuffle};
use crate::element::Element;
use crate::forward::Thread;
use crate::params::KMeansParams;
use crate::tile_size::{
    ELEMENT_BYTES, K_MEANS_CHUNK, K_MEANS_MEMBERS_SMEM_BYTES, K_MEANS_SEGMENT, K_MEANS_THREADS, WARP,
};

/// Rows whose loads are under way together.
const UNROLL: usize = 4;

// The sums of all threads take the place of the list.
const _: () = assert!(K_MEANS_THREADS * STEP * 4 <= K_MEANS_MEMBERS_SMEM_BYTES);

/// Addresses of a round.
pub(super) struct State {
    /// The clusters of the points; of `starts`, the point that each cluster starts from.
    pub(super) members: u64,
    pub(super) centroids: u64,
    pub(super) split: u64,
    pub(super) squares: u64,
    pub(super) control: u64,
    pub(super) counts: u64,
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn update<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let [cluster, chunk, _] = cta();
    let smem = dynamic_smem();
    // SAFETY: the caller's; the list and the sums are read and written between barriers.
    unsafe {
        if ld_global_b32(state.control + control::SETTLED) != 0 {
            return;
        }
        let thread = Thread::current();
        let first = chunk * K_MEANS_CHUNK;
        // Threads as wide as the row stand in groups, each for its share of the members.
        let width = (params.features - first).min(K_MEANS_CHUNK) / STEP;
        let (groups, _) = div_rem(K_MEANS_THREADS, width);
        let (group, of_row) = div_rem(thread.index, width);
        let feature = first + of_row * STEP;
        let mut sums = [0.0; 8];
        let mut count = 0;
        if params.step != 0 {
            if thread.index == 0 {
                st_shared_b32(smem, ld_global_b32(state.members + cluster as u64 * 4));
            }
            barrier::sync();
            count = 1;
            add::<E>(&points, &mut sums, smem, group, groups, count, feature);
            barrier::sync();
        } else {
            for base in (0..params.points).step_by(K_MEANS_SEGMENT as usize) {
                let found = members::list(thread, smem, state.members, params.points, base, cluster);
                add::<E>(&points, &mut sums, smem, group, groups, found, feature);
                count += found;
                barrier::sync();
            }
        }
        let place = smem + thread.index * STEP * 4;
        let [a, b, c, d, e, f, g, h] = sums.map(f32::to_bits);
        st_shared_v4_b32(place, [a, b, c, d]);
        st_shared_v4_b32(place + 16, [e, f, g, h]);
        barrier::sync();
        if thread.index < width {
            let mut sums = [0.0; 8];
            for group in 0..groups {
                let place = smem + (group * width + thread.index) * STEP * 4;
                for e in 0..8 {
                    sums[e] += ld_shared_f32(place + e as u32 * 4);
                }
            }
            let mean = sums.map(|sum| sum / count as f32);
            let square = store::<E>(mean, cluster, feature, &state, params);
            st_shared_b32(smem + K_MEANS_MEMBERS_SMEM_BYTES + thread.index * 4, square.to_bits());
        }
        barrier::sync();
        if thread.warp == 0 {
            let mut sum = 0.0;
            for i in (thread.lane..width).step_by(WARP as usize) {
                sum += ld_shared_f32(smem + K_MEANS_MEMBERS_SMEM_BYTES + i * 4);
            }
            let sum = shuffle::warp_sum(sum);
            if thread.lane == 0 {
                let at = cluster as u64 * params.chunks as u64 + chunk as u64;
                st_global_b32(state.squares + at * 4, sum.to_bits());
                if chunk == 0 {
                    // For the next assignment.
                    st_global_b32(state.counts + cluster as u64 * 4, 0);
                }
            }
        }
    }
}

/// Adds every `groups`-th of the listed points' 8 features from `feature` on, from the `group`-th of them on.
///
/// # Safety
/// The list at `smem` names `count` points; a group below `groups` has such features.
#[inline(always)]
unsafe fn add<E: Element>(
    points: &Points,
    sums: &mut [f32; 8],
    smem: u32,
    group: u32,
    groups: u32,
    count: u32,
    feature: u32,
) {
    if group >= groups {
        return;
    }
    let mut part = [0.0; 8];
    let mut at = group;
    while at < count {
        let mut rows = [[0; 4]; UNROLL];
        let mut scales = [0.0; UNROLL];
        for u in 0..UNROLL {
            let listed = at + u as u32 * groups;
            if listed < count {
                // SAFETY: the caller's.
                unsafe {
                    let point = ld_shared_b32(smem + listed * 4);
                    rows[u] = ld_global_v4_b32(points.address(point, feature));
                    scales[u] = points.scale(point);
                }
            }
        }
        // Rows that are not there are zeros.
        for u in 0..UNROLL {
            let row = unpack::<E>(rows[u]);
            for e in 0..8 {
                part[e] = fma(scales[u], row[e], part[e]);
            }
        }
        at += UNROLL as u32 * groups;
    }
    for e in 0..8 {
        sums[e] += part[e];
    }
}

/// Writes 8 features of a centroid, and their two parts; returns the square of what the parts add up to.
///
/// # Safety
/// There are such features, and no other thread writes them.
#[inline(always)]
unsafe fn store<E: Element>(
    mean: [f32; 8],
    cluster: u32,
    feature: u32,
    state: &State,
    params: &KMeansParams,
) -> f32 {
    let pack =
        |x: [f32; 8]| [[x[0], x[1]], [x[2], x[3]], [x[4], x[5]], [x[6], x[7]]].map(|[a, b]| E::pack(a, b));
    let at = cluster as u64 * params.features as u64 + feature as u64;
    let hi_bits = pack(mean);
    let hi = unpack::<E>(hi_bits);
    let mut rest = mean;
    for e in 0..8 {
        rest[e] -= hi[e];
    }
    let lo_bits = pack(rest);
    let lo = unpack::<E>(lo_bits);
    // SAFETY: the caller's.
    unsafe {
        let [a, b, c, d, e, f, g, h] = mean.map(f32::to_bits);
        st_global_v4_b32(state.centroids + at * 4, [a, b, c, d]);
        st_global_v4_b32(state.centroids + at * 4 + 16, [e, f, g, h]);
        let bytes = ELEMENT_BYTES as u64;
        let all = params.clusters as u64 * params.features as u64;
        st_global_v4_b32(state.split + at * bytes, hi_bits);
        st_global_v4_b32(state.split + (all + at) * bytes, lo_bits);
    }
    let mut square = 0.0;
    for e in 0..8 {
        let c = hi[e] + lo[e];
        square = fma(c, c, square);
    }
    square
}
