//! What selections are made of: the cut of a descending order by count or by covered sum, and the list of what is kept.
//!
//! - [`fixed`]: sums that decide, exact in 64-bit fixed point, and shares of them.
//! - [`key`]: integers that order as floats do.
//! - `radix`: where the descending order of a list of any length passes a limit, found by a CTA.
//! - `compact`: the entries within that cut, in ascending order.
//!
//! Nothing here depends on the order in which threads run, nor on how many there are: sums and counts are integers.
//!
//! # Use
//! ```text
//! let cta = Cta::<WARPS>::new(smem);                  // smem: tile_size::SELECT_COUNT_SMEM_BYTES or SELECT_SUM_SMEM_BYTES
//! let cut = radix::by_count(cta, n, k, |i| key(i));   // the k largest
//! let cut = radix::by_sum(cta, n, |total| need, |i| value(i)); // in descending order while the sum before is < need
//! compact::visit(cta, n, cut.ties, |i| Place::of_key(key(i), cut), |first, kept, position| ..); // 32 entries at a time
//! ```

#[cfg(target_arch = "nvptx64")]
pub(crate) mod compact;
pub mod fixed;
pub mod key;
#[cfg(target_arch = "nvptx64")]
pub(crate) mod radix;

#[cfg(target_arch = "nvptx64")]
mod cta;

#[cfg(target_arch = "nvptx64")]
pub(crate) use cta::Cta;
