//! The nearest centroid of every point.

use super::rows::Points;
use super::{control, least};
use crate::arch::atomic::{red_global_add_u32, red_global_min_u64, red_global_or_b32};
use crate::arch::barrier;
use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group, cp_async_wait_group};
use crate::arch::global::{ld_global_b32, ld_global_v2_b32, st_global_b32, st_global_v2_b32};
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::math::fma;
use crate::arch::shared::{dynamic_smem, ld_shared_f32, st_shared_b32};
use crate::arch::shuffle;
use crate::arch::special_register::cta;
use crate::element::Element;
use crate::forward::{Thread, fragment};
use crate::grid;
use crate::params::KMeansParams;
use crate::smem::{
    ROWS_16, STRIP_ROW_BYTES, chunk_offset, columns_then_rows, rows_then_columns, step_columns,
};
use crate::tile_size::{
    ELEMENT_BYTES, K_MEANS_ASSIGN_SMEM_BYTES, K_MEANS_ASSIGN_STAGES, K_MEANS_ASSIGN_THREADS, K_MEANS_STEP,
    K_MEANS_TILE,
};

/// Bytes of a tile of 64 rows x 64 features.
const TILE_BYTES: u32 = K_MEANS_TILE * STRIP_ROW_BYTES;
/// A stage: points, and the two parts of centroids.
const STAGE_BYTES: u32 = 3 * TILE_BYTES;
const STAGES_BYTES: u32 = K_MEANS_ASSIGN_STAGES * STAGE_BYTES;
const _: () = assert!(STAGES_BYTES + K_MEANS_TILE * 4 == K_MEANS_ASSIGN_SMEM_BYTES);
/// Rows of which all threads together copy one strip.
const ROWS_PER_PASS: u32 = K_MEANS_ASSIGN_THREADS / 8;
/// Points, and centroids, of a warp.
const WARP_ROWS: u32 = 32;

/// Addresses of a round.
pub(super) struct State {
    pub(super) split: u64,
    pub(super) squares: u64,
    pub(super) keys: u64,
    pub(super) previous: u64,
    pub(super) next: u64,
    pub(super) control: u64,
    pub(super) counts: u64,
}

/// A thread's part of the copies of 64 rows, 64 features at a time.
struct Strip {
    source: u64,
    row_bytes: u64,
    /// How many of the thread's rows, one in every [`ROWS_PER_PASS`], exist at most.
    rows: i32,
    /// Features from the thread's first one on.
    features: i32,
    target: u32,
}

impl Strip {
    /// The rows from `source` on, of which `rows` exist.
    #[inline(always)]
    fn new(thread: u32, smem: u32, source: u64, row_bytes: u64, rows: u32, features: u32) -> Self {
        let (row, chunk) = (thread / 8, thread % 8);
        Self {
            source: source + row as u64 * row_bytes + chunk as u64 * 16,
            row_bytes,
            rows: rows as i32 - row as i32,
            features: features as i32 - (chunk * 8) as i32,
            target: smem + chunk_offset(K_MEANS_TILE, row, chunk),
        }
    }

    /// Begins to copy the features from `feature` on; what does not exist becomes 0.
    ///
    /// # Safety
    /// What exists can be read; nothing accesses the stage's place until the copies have been waited for.
    #[inline(always)]
    unsafe fn begin(&self, stage: u32, feature: u32) {
        let here = (feature as i32) < self.features;
        let mut source = self.source + (feature * ELEMENT_BYTES) as u64;
        for pass in 0..K_MEANS_TILE / ROWS_PER_PASS {
            let valid = here && ((pass * ROWS_PER_PASS) as i32) < self.rows;
            let target = self.target + stage + pass * ROWS_PER_PASS * STRIP_ROW_BYTES;
            // SAFETY: the caller's.
            unsafe { cp_async_cg_16_zfill(target, source, valid) };
            source += ROWS_PER_PASS as u64 * self.row_bytes;
        }
    }
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn assign<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let [tile, tile_c, _] = cta();
    let smem = dynamic_smem();
    let (first, first_c) = (tile * K_MEANS_TILE, tile_c * K_MEANS_TILE);
    // SAFETY: the caller's; stages are read between the barrier that says that they are there and the one after which they
    // are written again, and what last CTAs read is ordered by their tickets.
    unsafe {
        if ld_global_b32(state.control + control::SETTLED) != 0 {
            return;
        }
        let thread = Thread::current();
        let squares = smem + STAGES_BYTES;
        if thread.index < K_MEANS_TILE {
            st_shared_b32(
                squares + thread.index * 4,
                square(&state, first_c + thread.index, params).to_bits(),
            );
        }
        let acc = products::<E>(thread, smem, &points, &state, first, first_c, params);

        let (row, column) = warp_origin(thread.warp);
        for i in 0..2 {
            for half in 0..2 {
                let point = first + row + i as u32 * 16 + half as u32 * 8 + thread.lane / 4;
                let factor = -2.0 * points.scale(point.min(params.points - 1));
                let mut nearest = u64::MAX;
                for j in 0..4 {
                    for e in 0..2 {
                        let c = column + j as u32 * 8 + thread.column() + e as u32;
                        let square = ld_shared_f32(squares + c * 4);
                        let cost = fma(factor, acc[i][j][2 * half + e], square);
                        nearest = nearest.min(least(cost, first_c + c));
                    }
                }
                let nearest = nearest.min(shuffle::bfly_u64::<1>(nearest));
                let nearest = nearest.min(shuffle::bfly_u64::<2>(nearest));
                if thread.lane % 4 == 0 && point < params.points {
                    red_global_min_u64(state.keys + point as u64 * 8, nearest);
                }
            }
        }
        let tiles_c = params.clusters.div_ceil(K_MEANS_TILE);
        if grid::last(thread, control::tile_ticket(state.control, tile), tiles_c) {
            settle_tile(thread, first, &state, params);
        }
    }
}

/// `|c|^2` of centroid `c`, infinity where there is none.
///
/// # Safety
/// The centroids' squares are there.
#[inline(always)]
unsafe fn square(state: &State, c: u32, params: &KMeansParams) -> f32 {
    if c >= params.clusters {
        return f32::INFINITY;
    }
    let mut sum = 0.0;
    for chunk in 0..params.chunks {
        let at = c as u64 * params.chunks as u64 + chunk as u64;
        // SAFETY: the caller's.
        sum += f32::from_bits(unsafe { ld_global_b32(state.squares + at * 4) });
    }
    sum
}

/// The first point, and the first centroid, of a warp in the CTA's tile.
#[inline(always)]
fn warp_origin(warp: u32) -> (u32, u32) {
    (warp / 2 * WARP_ROWS, warp % 2 * WARP_ROWS)
}

/// The products of the warp's points and centroids.
///
/// # Safety
/// Reached by all threads of the CTA, with [`STAGES_BYTES`] of shared memory.
#[inline(always)]
unsafe fn products<E: Element>(
    thread: Thread,
    smem: u32,
    points: &Points,
    state: &State,
    first: u32,
    first_c: u32,
    params: &KMeansParams,
) -> [[[f32; 4]; 4]; 2] {
    let centroid_bytes = params.features as u64 * ELEMENT_BYTES as u64;
    let (rows, rows_c) = (params.points - first, params.clusters - first_c);
    let hi = state.split + first_c as u64 * centroid_bytes;
    let lo = hi + params.clusters as u64 * centroid_bytes;
    let strip = |place: u32, source, row_bytes, rows| {
        Strip::new(thread.index, smem + place * TILE_BYTES, source, row_bytes, rows, params.features)
    };
    let strips = [
        strip(0, points.address(first, 0), points.row_bytes, rows),
        strip(1, hi, centroid_bytes, rows_c),
        strip(2, lo, centroid_bytes, rows_c),
    ];
    let (row, column) = warp_origin(thread.warp);
    let a_lane = fragment(smem, K_MEANS_TILE, row, rows_then_columns(thread.lane));
    let b_lane = fragment(smem + TILE_BYTES, K_MEANS_TILE, column, columns_then_rows(thread.lane));
    let mut acc = [[[0.0; 4]; 4]; 2];
    // SAFETY: the caller's.
    unsafe {
        let begin = |stage: u32, feature: u32| {
            if feature < params.features {
                for strip in &strips {
                    strip.begin(stage, feature);
                }
            }
            cp_async_commit_group();
        };
        for stage in 0..K_MEANS_ASSIGN_STAGES - 1 {
            begin(stage * STAGE_BYTES, stage * K_MEANS_STEP);
        }
        let (mut stage, mut free) = (0, (K_MEANS_ASSIGN_STAGES - 1) * STAGE_BYTES);
        for feature in (0..params.features).step_by(K_MEANS_STEP as usize) {
            cp_async_wait_group::<{ K_MEANS_ASSIGN_STAGES - 2 }>();
            barrier::sync();
            begin(free, feature + (K_MEANS_ASSIGN_STAGES - 1) * K_MEANS_STEP);
            let mut part = [[[0.0; 4]; 4]; 2];
            for step in 0..K_MEANS_STEP / 16 {
                let mut a = [[0; 4]; 2];
                for i in 0..2 {
                    a[i] = ldmatrix_x4(step_columns(a_lane + stage, K_MEANS_TILE, step) + i as u32 * ROWS_16);
                }
                for split in 0..2 {
                    for j in 0..2 {
                        let [b0, b1, b2, b3] = ldmatrix_x4(
                            step_columns(b_lane + stage, K_MEANS_TILE, step)
                                + split as u32 * TILE_BYTES
                                + j as u32 * ROWS_16,
                        );
                        for i in 0..2 {
                            E::mma(&mut part[i][2 * j], a[i], [b0, b1]);
                            E::mma(&mut part[i][2 * j + 1], a[i], [b2, b3]);
                        }
                    }
                }
            }
            for i in 0..2 {
                for j in 0..4 {
                    for e in 0..4 {
                        acc[i][j][e] += part[i][j][e];
                    }
                }
            }
            free = stage;
            stage = if stage == STAGES_BYTES - STAGE_BYTES { 0 } else { stage + STAGE_BYTES };
        }
    }
    acc
}

/// Writes the clusters of a tile of points, counts them, and after the last tile says whether the round has settled.
///
/// # Safety
/// Reached by all threads of the last CTA of the tile.
#[inline(always)]
unsafe fn settle_tile(thread: Thread, first: u32, state: &State, params: &KMeansParams) {
    // SAFETY: the caller's.
    unsafe {
        let mut changed = false;
        let point = first + thread.index;
        if thread.index < K_MEANS_TILE && point < params.points {
            let at = point as u64;
            let [cluster, _] = ld_global_v2_b32(state.keys + at * 8);
            st_global_v2_b32(state.keys + at * 8, [u32::MAX; 2]);
            st_global_b32(state.next + at * 4, cluster);
            changed = cluster != ld_global_b32(state.previous + at * 4);
            red_global_add_u32(state.counts + cluster as u64 * 4, 1);
        }
        if barrier::sync_any(changed) && thread.index == 0 {
            red_global_or_b32(state.control + control::CHANGED, 1);
        }
        let tiles = params.points.div_ceil(K_MEANS_TILE);
        if grid::last(thread, state.control + control::TICKET, tiles) {
            let mut empty = false;
            for c in (thread.index..params.clusters).step_by(K_MEANS_ASSIGN_THREADS as usize) {
                empty |= ld_global_b32(state.counts + c as u64 * 4) == 0;
            }
            let empty = barrier::sync_any(empty);
            if thread.index == 0 {
                let changed = ld_global_b32(state.control + control::CHANGED) != 0;
                st_global_b32(state.control + control::CHANGED, 0);
                st_global_b32(state.control + control::EMPTY, empty.into());
                // Of a round with empty clusters, `fill` knows when it has filled them.
                st_global_b32(state.control + control::SETTLED, (!changed && !empty).into());
            }
        }
    }
}
