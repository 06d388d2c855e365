//! The entries within a cut, in ascending order of their indices.
//!
//! A warp looks at 32 entries at a time, and at four such groups in a row; ballots say which are above the cut and which
//! tie with it. Once per round of the CTA the warps tell one another how many they found: what comes before a group is then
//! known, and with it the place of each entry in the list and how many of its ties are still to be taken. The places in
//! shared memory alternate, so that a round needs one barrier.

use super::Cta;
use super::radix::Cut;
use crate::arch::shared::{ld_shared_b32, st_shared_b32};
use crate::arch::{barrier, shuffle, vote};
use crate::tile_size::WARP;

/// Groups of 32 entries that a warp looks at between two barriers.
const GROUPS: u32 = 4;

/// Where an entry stands to a cut.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Taken.
    pub(crate) above: bool,
    /// Taken if it is among the first that tie.
    pub(crate) tie: bool,
}

impl Place {
    /// Not taken.
    pub(crate) const BELOW: Self = Self { above: false, tie: false };

    /// Of an entry with this key.
    #[inline(always)]
    pub(crate) fn of_key(key: u32, cut: Cut) -> Self {
        Self { above: key > cut.threshold, tie: key == cut.threshold }
    }
}

/// Shows all groups of 32 of the entries `0..n` to `emit(first, kept, position)`, each to one whole warp: the first index, a
/// bit for each of the entries that is kept, and how many of those before `first` are. Entries are kept that stand above
/// the cut, and of those that tie the first `ties`.
///
/// # Safety
/// Reached by all threads of the CTA with the same `n`, below 2^30, and `ties`; shared memory as [`Cta`] says.
#[inline(always)]
pub(crate) unsafe fn visit<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    ties: u32,
    place: impl Fn(u32) -> Place,
    mut emit: impl FnMut(u32, u32, u32),
) {
    let (warp, lane) = (cta.thread.warp, cta.thread.lane);
    let (mut above_before, mut ties_before) = (0, 0);
    let mut places = cta.smem;
    let mut round = 0;
    // SAFETY: the caller's; places of warps are written and read between barriers, as the heading says.
    unsafe {
        while round < n {
            let mut above = [0; GROUPS as usize];
            let mut tied = [0; GROUPS as usize];
            // Of a round: how many are above the cut, below 2^16, and from bit 16 on how many tie.
            let mut counts = 0;
            for group in 0..GROUPS {
                let i = round + (warp * GROUPS + group) * WARP + lane;
                // Past the end, the last entry once more: loads that wait for no branch are under way together.
                let place = place(i.min(n - 1));
                above[group as usize] = vote::ballot(place.above && i < n);
                tied[group as usize] = vote::ballot(place.tie && i < n);
                counts += above[group as usize].count_ones() + (tied[group as usize].count_ones() << 16);
            }
            if lane == 0 {
                st_shared_b32(places + 4 * warp, counts);
            }
            barrier::sync();
            let of_warp = if lane < WARPS { ld_shared_b32(places + 4 * lane) } else { 0 };
            let upto = shuffle::inclusive_sum_u32(of_warp, lane);
            let before = shuffle::idx(upto, warp) - counts;
            let all = shuffle::idx(upto, WARP - 1);
            let mut above_here = above_before + (before & 0xffff);
            let mut ties_here = ties_before + (before >> 16);
            for group in 0..GROUPS {
                let first = round + (warp * GROUPS + group) * WARP;
                let (above, tied) = (above[group as usize], tied[group as usize]);
                let kept = above | lowest(tied, ties.saturating_sub(ties_here), lane);
                if first < n {
                    emit(first, kept, above_here + ties_here.min(ties));
                }
                above_here += above.count_ones();
                ties_here += tied.count_ones();
            }
            above_before += all & 0xffff;
            ties_before += all >> 16;
            places = cta.smem + ((places - cta.smem) ^ (4 * WARP));
            round += GROUPS * Cta::<WARPS>::THREADS;
        }
        barrier::sync();
    }
}

/// The lowest `count` of the bits that are set.
///
/// # Safety
/// Reached by all lanes of the warp with the same bits and count; `lane` is the caller's lane.
#[inline(always)]
pub(crate) unsafe fn lowest(bits: u32, count: u32, lane: u32) -> u32 {
    // SAFETY: the caller's.
    bits & unsafe { vote::ballot(below(bits, lane) < count) }
}

/// How many bits below `lane` are set.
#[inline(always)]
pub(crate) fn below(bits: u32, lane: u32) -> u32 {
    (bits & ((1 << lane) - 1)).count_ones()
}
