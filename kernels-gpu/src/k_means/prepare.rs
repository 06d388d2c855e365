//! The scales of the points, and everything else as it is at the start.

use super::control;
use super::rows::Points;
use crate::arch::global::{st_global_b32, st_global_v2_b32};
use crate::arch::math::{fma, sqrt};
use crate::arch::special_register::cta;
use crate::element::Element;
use crate::forward::Thread;
use crate::params::KMeansParams;
use crate::tile_size::{K_MEANS_POINTS, K_MEANS_THREADS, K_MEANS_TILE, WARP};

/// Addresses that [`prepare`] writes.
pub(super) struct State {
    pub(super) nearest: u64,
    pub(super) keys: u64,
    pub(super) previous: u64,
    pub(super) control: u64,
    pub(super) counts: u64,
    pub(super) flags: u64,
    pub(super) starts: u64,
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn prepare<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let tile = cta()[0];
    // SAFETY: the caller's; each word is written by one thread.
    unsafe {
        let thread = Thread::current();
        let per_warp = K_MEANS_POINTS / (K_MEANS_THREADS / WARP);
        for p in 0..per_warp {
            let i = tile * K_MEANS_POINTS + thread.warp * per_warp + p;
            if i >= params.points {
                break;
            }
            let mut scale = 1.0;
            if params.cosine != 0 {
                let square = points.sum::<E>(thread.lane, i, |_| [0.0; 8], |sum, x, _| fma(x, x, sum));
                if square > 0.0 {
                    scale = 1.0 / sqrt(square);
                }
            }
            if thread.lane == 0 {
                let at = i as u64;
                st_global_b32(points.scales + at * 4, scale.to_bits());
                let nearest = if i == params.step { super::seed::TAKEN } else { f32::INFINITY };
                st_global_b32(state.nearest + at * 4, nearest.to_bits());
                st_global_v2_b32(state.keys + at * 8, [u32::MAX; 2]);
                st_global_b32(state.previous + at * 4, u32::MAX);
            }
        }
        // There are more threads than clusters, tiles and words of flags: none are more than points.
        let i = tile * K_MEANS_THREADS + thread.index;
        if i < params.clusters {
            st_global_b32(state.counts + i as u64 * 4, 0);
        }
        if i < control::WORDS + params.points.div_ceil(K_MEANS_TILE) {
            st_global_b32(state.control + i as u64 * 4, 0);
        }
        if i < params.points.div_ceil(WARP) {
            st_global_b32(state.flags + i as u64 * 4, 0);
        }
        if i == 0 {
            st_global_b32(state.starts, params.step);
        }
    }
}
