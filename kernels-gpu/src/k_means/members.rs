//! The members of a cluster, in ascending order.

use crate::arch::global::ld_global_b32;
use crate::arch::shared::{ld_shared_b32, st_shared_b32};
use crate::arch::{barrier, shuffle, vote};
use crate::forward::Thread;
use crate::tile_size::{K_MEANS_SEGMENT, K_MEANS_THREADS, WARP};

const WARPS: u32 = K_MEANS_THREADS / WARP;
/// Groups of 32 points that a warp looks at.
const GROUPS: u32 = K_MEANS_SEGMENT / WARP / WARPS;

/// Lists the points of cluster `cluster` among the [`K_MEANS_SEGMENT`] from `first` on at `smem`, and returns how many they
/// are.
///
/// # Safety
/// Reached by all threads of the CTA, none of which reads the list any more; `assignment` holds `n` clusters, and
/// `first` is below `n`.
#[inline(always)]
pub(super) unsafe fn list(
    thread: Thread,
    smem: u32,
    assignment: u64,
    n: u32,
    first: u32,
    cluster: u32,
) -> u32 {
    let words = smem + K_MEANS_SEGMENT * 4;
    let first = first + thread.warp * GROUPS * WARP + thread.lane;
    // SAFETY: the caller's; words and list are read behind barriers.
    unsafe {
        let mut clusters = [0; GROUPS as usize];
        for j in 0..GROUPS {
            let i = (first + j * WARP).min(n - 1);
            clusters[j as usize] = ld_global_b32(assignment + i as u64 * 4);
        }
        let mut here = [0; GROUPS as usize];
        for j in 0..GROUPS {
            let exists = first + j * WARP < n;
            here[j as usize] = vote::ballot(exists & (clusters[j as usize] == cluster));
            if thread.lane == 0 {
                st_shared_b32(words + (thread.warp * GROUPS + j) * 4, here[j as usize]);
            }
        }
        barrier::sync();
        // Members before this warp's points, and from bit 16 on all of them.
        let mut counts = 0;
        for word in (0..WARPS * GROUPS).step_by(WARP as usize) {
            let members = ld_shared_b32(words + (word + thread.lane) * 4).count_ones();
            let before = word + thread.lane < thread.warp * GROUPS;
            counts += members << 16 | if before { members } else { 0 };
        }
        let counts = shuffle::warp_sum_u32(counts);
        let (mut place, all) = (counts & 0xffff, counts >> 16);
        for j in 0..GROUPS {
            let word = here[j as usize];
            if word >> thread.lane & 1 != 0 {
                let rank = (word & ((1 << thread.lane) - 1)).count_ones();
                st_shared_b32(smem + (place + rank) * 4, first + j * WARP);
            }
            place += word.count_ones();
        }
        barrier::sync();
        all
    }
}
