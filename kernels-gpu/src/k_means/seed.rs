//! The next point to start from: far ones are likely.

use super::control;
use super::pair::Pair;
use super::rows::Points;
use crate::arch::global::{ld_global_b32, ld_global_v2_b32, st_global_b32, st_global_v2_b32};
use crate::arch::math::fma;
use crate::arch::shared::{dynamic_smem, ld_shared_f32, ld_shared_v2_b32, st_shared_b32, st_shared_v2_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, shuffle};
use crate::element::Element;
use crate::forward::Thread;
use crate::grid;
use crate::params::KMeansParams;
use crate::tile_size::{K_MEANS_POINTS, K_MEANS_THREADS, WARP};

/// The distance of a point that is a start itself; adds nothing.
pub(super) const TAKEN: f32 = -1.0;

const WARPS: u32 = K_MEANS_THREADS / WARP;

/// Addresses of what the rounds hand on.
pub(super) struct State {
    /// `f32 [points]`: the distance to the nearest start so far.
    pub(super) nearest: u64,
    /// `f32 [tiles, 2]`: its sums over tiles of points.
    pub(super) sums: u64,
    /// `f32 [clusters, 2]`: a uniform number for every start.
    pub(super) uniforms: u64,
    pub(super) starts: u64,
    pub(super) control: u64,
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
pub(super) unsafe fn seed<E: Element>(points: Points, state: State, params: &KMeansParams) {
    let tile = cta()[0];
    let smem = dynamic_smem();
    // SAFETY: the caller's; the tile's distances are its own, and what the last CTA reads is ordered by its ticket.
    unsafe {
        let thread = Thread::current();
        let start = ld_global_b32(state.starts + (params.step - 1) as u64 * 4);
        let start_scale = points.scale(start);
        let per_warp = K_MEANS_POINTS / WARPS;
        for p in 0..per_warp {
            let slot = thread.warp * per_warp + p;
            let i = tile * K_MEANS_POINTS + slot;
            let mut share = 0.0f32;
            if i < params.points {
                let scale = points.scale(i);
                let distance = points.sum::<E>(
                    thread.lane,
                    i,
                    |feature| points.load::<E>(start, feature),
                    |sum, x, y| {
                        // Rounded like the other product: equal points are at 0.
                        let d = scale * x - start_scale * y;
                        fma(d, d, sum)
                    },
                );
                let address = state.nearest + i as u64 * 4;
                let before = f32::from_bits(ld_global_b32(address));
                if before >= 0.0 {
                    share = before.min(distance);
                    barrier::sync_warp();
                    if thread.lane == 0 {
                        st_global_b32(address, share.to_bits());
                    }
                }
            }
            if thread.lane == 0 {
                st_shared_b32(smem + slot * 4, share.to_bits());
            }
        }
        barrier::sync();
        if thread.index == 0 {
            let mut sum = Pair::ZERO;
            for slot in 0..K_MEANS_POINTS {
                sum = sum.add(Pair { hi: ld_shared_f32(smem + slot * 4), lo: 0.0 });
            }
            store(state.sums + tile as u64 * 8, sum);
        }
        let tiles = params.points.div_ceil(K_MEANS_POINTS);
        if grid::last(thread, state.control + control::TICKET, tiles) {
            let next = draw(thread, smem, tiles, &state, params);
            if thread.index == 0 {
                st_global_b32(state.starts + params.step as u64 * 4, next);
                st_global_b32(state.nearest + next as u64 * 4, TAKEN.to_bits());
            }
        }
    }
}

/// The first point at which the running sum exceeds the round's share of the whole; where there is none, the lowest that is
/// not taken.
///
/// # Safety
/// Reached by all threads of the last CTA, with `16 WARPS` bytes of shared memory.
#[inline(always)]
unsafe fn draw(thread: Thread, smem: u32, tiles: u32, state: &State, params: &KMeansParams) -> u32 {
    let n = params.points;
    // SAFETY: the caller's.
    unsafe {
        // Each thread sums the tiles of a range, and learns the sum of the ranges before.
        let per_thread = tiles.div_ceil(K_MEANS_THREADS);
        let first = (thread.index * per_thread).min(tiles);
        let end = (first + per_thread).min(tiles);
        let mut own = Pair::ZERO;
        for tile in first..end {
            own = own.add(load(state.sums + tile as u64 * 8));
        }
        let mut sum = own;
        for step in 0..5 {
            let distance = 1 << step;
            let before = Pair {
                hi: f32::from_bits(shuffle::up(sum.hi.to_bits(), distance)),
                lo: f32::from_bits(shuffle::up(sum.lo.to_bits(), distance)),
            };
            if thread.lane >= distance {
                sum = before.add(sum);
            }
        }
        // The ticket's barriers have passed since the distances were read.
        if thread.lane == WARP - 1 {
            st_shared_v2_b32(smem + thread.warp * 8, [sum.hi.to_bits(), sum.lo.to_bits()]);
        }
        let before = Pair {
            hi: f32::from_bits(shuffle::up(sum.hi.to_bits(), 1)),
            lo: f32::from_bits(shuffle::up(sum.lo.to_bits(), 1)),
        };
        let mut running = if thread.lane == 0 { Pair::ZERO } else { before };
        barrier::sync();
        let (mut total, mut of_warps) = (Pair::ZERO, Pair::ZERO);
        for warp in 0..WARPS {
            if warp == thread.warp {
                of_warps = total;
            }
            let [hi, lo] = ld_shared_v2_b32(smem + warp * 8).map(f32::from_bits);
            total = total.add(Pair { hi, lo });
        }
        running = of_warps.add(running);
        let share = load(state.uniforms + params.step as u64 * 8).times(total);

        // The tile in which the sum passes the share: one that adds something.
        let (mut found, mut start) = (u64::MAX, Pair::ZERO);
        // A sum that is not finite leaves no share to be exceeded.
        if total.hi < f32::INFINITY {
            for tile in first..end {
                let sum = load(state.sums + tile as u64 * 8);
                let next = running.add(sum);
                if found == u64::MAX && sum.hi > 0.0 && next.exceeds(share) {
                    (found, start) = (tile as u64, running);
                }
                running = next;
            }
        }
        let places = smem + WARPS * 8;
        let tile = grid::least::<WARPS>(thread, smem, found);
        if tile == u64::MAX {
            let mut free = u64::MAX;
            for i in (thread.index..n).step_by(K_MEANS_THREADS as usize) {
                let taken = f32::from_bits(ld_global_b32(state.nearest + i as u64 * 4)) < 0.0;
                if free == u64::MAX && !taken {
                    free = i as u64;
                }
            }
            return grid::least::<WARPS>(thread, smem, free) as u32;
        }
        if found == tile {
            st_shared_v2_b32(places, [start.hi.to_bits(), start.lo.to_bits()]);
        }
        barrier::sync();
        let [hi, lo] = ld_shared_v2_b32(places).map(f32::from_bits);
        let mut running = Pair { hi, lo };
        let (mut pick, mut likely) = (u32::MAX, 0);
        let first = tile as u32 * K_MEANS_POINTS;
        let own = (first + thread.lane % K_MEANS_POINTS).min(n - 1);
        let own = ld_global_b32(state.nearest + own as u64 * 4);
        for slot in 0..K_MEANS_POINTS {
            let share_of = f32::from_bits(shuffle::idx(own, slot));
            if share_of > 0.0 && first + slot < n {
                running = running.add(Pair { hi: share_of, lo: 0.0 });
                likely = first + slot;
                if pick == u32::MAX && running.exceeds(share) {
                    pick = first + slot;
                }
            }
        }
        // All but never does rounding take the tile's sum past the share and leave that of its points below.
        if pick == u32::MAX { likely } else { pick }
    }
}

/// # Safety
/// A pair is at `address`.
#[inline(always)]
unsafe fn load(address: u64) -> Pair {
    // SAFETY: the caller's.
    let [hi, lo] = unsafe { ld_global_v2_b32(address) }.map(f32::from_bits);
    Pair { hi, lo }
}

/// # Safety
/// There is room for a pair at `address`.
#[inline(always)]
unsafe fn store(address: u64, pair: Pair) {
    // SAFETY: the caller's.
    unsafe { st_global_v2_b32(address, [pair.hi.to_bits(), pair.lo.to_bits()]) }
}
