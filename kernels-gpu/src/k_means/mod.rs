//! k-means of token features: k-means++ start, rounds of assignment and update, and a point that stands for each cluster.
//!
//! # Kernels
//! ```text
//! prepare    one warp per point: its scale (1 / length for the cosine metric, else 1), and everything set to its start
//! seed       once per further start: distances to the last one; the last CTA draws the next from their running sum
//! update     the starts as centroids
//! assign     ┐
//! fill       │ per round; all of them leave at once when the round before has changed nothing
//! update     ┘
//! represent  the member nearest to each centroid; the last CTA lists them in ascending order
//! ```
//! The host is not asked in between: the rounds are queued up to the most there may be, and a flag in device memory
//! ([`control::SETTLED`]) lets those that are not needed pass. A kernel whose CTAs have to agree (which start, has anything
//! changed, which representatives) lets the last one to finish decide ([`crate::grid::last`]).
//!
//! # Assignment
//! `|c|^2 - 2 x.c` over tiles of 64 points x 64 centroids, features passing by 64 at a time through three stages of shared
//! memory; 4 warps of 32 x 32 products each. A centroid is a mean and no 16-bit number: it is split into two, `hi` the
//! nearest 16-bit number and `lo` the nearest to the rest, both multiplied by the same fragments of points. What is assigned
//! to is therefore `c' = hi + lo`, and `|c|^2` is that of `c'`: distances to `c'` are right, and `c'` is within 2^-18 of
//! `c` for bf16 and 2^-24, or 2^-25 absolute, for f16. Tensor cores cut what they add to an accumulator: products are added
//! up over 64 features at most, and those sums in f32.
//!
//! Tiles of one point and different centroids find the nearest by the minimum of (distance, cluster) as one 64-bit integer:
//! whichever comes first, the result is the same, and ties go to the lowest cluster.
//!
//! # Update
//! A CTA sums the members of one cluster over up to 1024 features: it looks through the assignment for them, 2048 points
//! at a time, and adds their rows in ascending order, each group of threads that is as wide as a row every `G`-th of them.
//! Points are read once in all; a product with the one-hot assignment would read them once per 64 clusters. Neither sum
//! depends on the grid or on the order in which CTAs run.
//!
//! # Start
//! The running sum of distances is kept in two f32 (about 48 bits): tiles of 16 points in order, then tiles in order.
//!
//! # Registers
//! By ptxas 13.0.88 for sm_80, either type: prepare 46, seed 56, update 63, assign 141, fill 72, represent 80; none on the
//! stack. None of this has been timed.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod assign;
#[cfg(target_arch = "nvptx64")]
mod fill;
#[cfg(target_arch = "nvptx64")]
mod members;
mod pair;
#[cfg(target_arch = "nvptx64")]
mod prepare;
#[cfg(target_arch = "nvptx64")]
mod represent;
#[cfg(target_arch = "nvptx64")]
mod rows;
#[cfg(target_arch = "nvptx64")]
mod seed;
#[cfg(target_arch = "nvptx64")]
mod sm80;
#[cfg(target_arch = "nvptx64")]
mod update;

use crate::select::key;

/// Words of `control`, in bytes from its start.
#[cfg(target_arch = "nvptx64")]
mod control {
    /// CTAs, or tiles of points, that have come to the end of a kernel.
    pub(super) const TICKET: u64 = 0;
    /// Whether a point of this round has another cluster than in the round before.
    pub(super) const CHANGED: u64 = 4;
    /// Whether a cluster of this round is empty.
    pub(super) const EMPTY: u64 = 8;
    /// Whether a round has changed nothing.
    pub(super) const SETTLED: u64 = 12;
    /// Words before the tickets of the tiles of points.
    pub(super) const WORDS: u32 = 4;

    /// The CTAs of assignment that have come to the end of tile `tile` of points.
    pub(super) fn tile_ticket(control: u64, tile: u32) -> u64 {
        control + (WORDS + tile) as u64 * 4
    }
}

/// What is least for the lowest cost, then for the lowest index. NaN is worth infinity, and so is `-inf`: no distance is,
/// but the product of an infinite point and a centroid may be.
#[inline(always)]
fn least(cost: f32, index: u32) -> u64 {
    let cost = if cost > f32::NEG_INFINITY { cost } else { f32::INFINITY };
    (key::score(cost) as u64) << 32 | index as u64
}

/// What is least for the largest distance, then for the lowest index; NaN is nearest of all.
#[inline(always)]
fn farthest(distance: f32, index: u32) -> u64 {
    (!key::score(distance) as u64) << 32 | index as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_key_is_the_answer() {
        let first_least = |costs: &[f32]| (0..).zip(costs).map(|(i, &c)| least(c, i)).min().unwrap() as u32;
        assert_eq!(first_least(&[1.0, -2.0, -2.0, 3.0]), 1);
        assert_eq!(first_least(&[f32::NAN, f32::INFINITY]), 0);
        assert_eq!(first_least(&[f32::NAN, 1e38]), 1);
        assert_eq!(first_least(&[f32::NEG_INFINITY, 1e38]), 1);
        let first_farthest = |d: &[f32]| (0..).zip(d).map(|(i, &d)| farthest(d, i)).min().unwrap() as u32;
        assert_eq!(first_farthest(&[1.0, 4.0, 4.0, f32::NAN]), 1);
        assert_eq!(first_farthest(&[f32::NAN, 0.0]), 1);
        assert_eq!(first_farthest(&[f32::NAN, f32::NAN]), 0);
    }
}
