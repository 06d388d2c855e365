//! Where the descending order of a list passes a limit: a radix descent of a CTA.
//!
//! The keys are looked at 11, 11 and 10 bits at a time, from the top. Each of three passes over the list counts, for every
//! value of its digit, the entries that agree with the digits found so far, and adds their weights; the next digit is that
//! of the bin in which the running sum from the top passes the limit. Of the entries that are equal to the key found, the
//! lowest indices are taken, as many as a division says.
//!
//! # Thread mapping
//! Threads read every `THREADS`-th entry, four at a time, so that warps read whole lines. A thread adds up equal digits that
//! follow one another before it turns to shared memory: a flat list, whose entries all fall into one bin, costs an atomic
//! per thread and not per entry. Bins are summed by warps over descending ranges of equal length; the warp in whose range
//! the limit lies walks it again.
//!
//! # Shared memory
//! 2048 bins of 4 bytes, or of 12 with 64-bit sums in two halves, behind a scratch for what warps tell one another:
//! [`SELECT_COUNT_SMEM_BYTES`](crate::tile_size::SELECT_COUNT_SMEM_BYTES) or
//! [`SELECT_SUM_SMEM_BYTES`](crate::tile_size::SELECT_SUM_SMEM_BYTES).

use super::{Cta, fixed, key};
use crate::arch::atomic::{red_shared_add_u32, red_shared_add_u64};
use crate::arch::shared::{ld_shared_b32, ld_shared_v4_b32, st_shared_v4_b32};
use crate::arch::{barrier, opaque, redux, shuffle, vote};
use crate::tile_size::{SELECT_BINS as BINS, SELECT_SCRATCH_BYTES as SCRATCH_BYTES, WARP};

/// What follows the histogram's counts: low and high halves of sums.
const LOW: u32 = BINS * 4;
const HIGH: u32 = 2 * LOW;
/// In the scratch, behind 16 bytes per warp: the bin that was found.
const FOUND: u32 = WARP * 16;

/// Entries that a thread reads before it counts them.
const BATCH: u32 = 4;

/// Where a descending order was cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// Entries with greater keys are taken.
    pub(crate) threshold: u32,
    /// So many of the entries with this key are taken, the lowest indices; all of them if there are fewer.
    pub(crate) ties: u32,
    /// Entries taken.
    pub(crate) count: u32,
    /// Whether the limit was reached; if not, every entry is taken.
    pub(crate) reached: bool,
}

impl Cut {
    /// Every one of `n` entries.
    #[inline(always)]
    pub(crate) fn all(n: u32) -> Self {
        Self { threshold: 0, ties: u32::MAX, count: n, reached: false }
    }

    /// None at all.
    #[inline(always)]
    fn none() -> Self {
        Self { threshold: u32::MAX, ties: 0, count: 0, reached: true }
    }
}

/// The `k` largest of the entries `0..n` by their keys (any u32: [`key::score`], [`key::FORCED`]); all if there are fewer.
///
/// # Safety
/// Reached by all threads of the CTA with the same `n` and `k`, both below 2^30; `key` returns the same whenever it is
/// asked. Shared memory as [`Cta`] says.
#[inline(always)]
pub(crate) unsafe fn by_count<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    k: u32,
    key: impl Fn(u32) -> u32,
) -> Cut {
    if n <= k {
        return Cut::all(n);
    }
    // SAFETY: the caller's.
    unsafe { cut::<false, WARPS>(cta, n, |_| k as u64, key, |_| 1) }
}

/// The entries `0..n` in descending order of their values (keys [`key::amount`]), taken while the sum of those before is
/// below `need(sum of all)`, sums as [`fixed`] has them: the entry that reaches the need is taken.
///
/// The number of inclusive prefix sums that are at most a limit is `count - 1` of the cut for a need of `limit + 1`, or
/// `count` if that was not `reached`: see [`count_within`].
///
/// # Safety
/// As [`by_count`]; the values add up to less than 2^24, and `need` returns the same in all threads.
#[inline(always)]
pub(crate) unsafe fn by_sum<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    need: impl Fn(u64) -> u64,
    value: impl Fn(u32) -> f32,
) -> Cut {
    // SAFETY: the caller's.
    unsafe { by_weight(cta, n, need, |i| key::amount(value(i)), fixed::of_key) }
}

/// As [`by_sum`], of keys of any kind whose weights are given: less than 2^64 in all, the same for equal keys.
///
/// # Safety
/// As [`by_count`]; `need` and `weight` return the same in all threads.
#[inline(always)]
pub(crate) unsafe fn by_weight<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    need: impl Fn(u64) -> u64,
    key: impl Fn(u32) -> u32,
    weight: impl Fn(u32) -> u64,
) -> Cut {
    // SAFETY: the caller's.
    unsafe { cut::<true, WARPS>(cta, n, need, key, weight) }
}

/// How many of the descending inclusive prefix sums of the values are at most `limit` (fixed point).
///
/// # Safety
/// As [`by_sum`].
#[inline(always)]
pub(crate) unsafe fn count_within<const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    limit: u64,
    value: impl Fn(u32) -> f32,
) -> u32 {
    // SAFETY: the caller's.
    let cut = unsafe { by_sum(cta, n, |_| limit + 1, value) };
    cut.count - cut.reached as u32
}

/// How far a descent has come.
#[derive(Clone, Copy)]
struct Descent {
    /// The digits found so far.
    prefix: u32,
    /// Entries with greater digits, and their weight.
    count: u32,
    weight: u64,
}

/// `SUMS`: weights differ, so that bins need sums beside counts; otherwise each is 1, and the need at most `n`.
#[inline(always)]
unsafe fn cut<const SUMS: bool, const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    need_of: impl Fn(u64) -> u64,
    key: impl Fn(u32) -> u32,
    weight: impl Fn(u32) -> u64,
) -> Cut {
    let mut descent = Descent { prefix: 0, count: 0, weight: 0 };
    let mut need = 0;
    // SAFETY: the caller's.
    unsafe {
        // Opaque: one copy of the passes, which differ in shifts alone.
        for level in 0..opaque(3) {
            let (shift, width) = if level == 0 {
                (21, 11)
            } else if level == 1 {
                (10, 11)
            } else {
                (0, 10)
            };
            histogram::<SUMS, WARPS>(cta, n, descent.prefix, shift, width, &key, &weight);
            let ranges = sum_ranges::<SUMS, WARPS>(cta, width);
            if level == 0 {
                let total = shuffle::idx_u64(ranges.weight, WARP - 1);
                need = need_of(total);
                // A count is reached: there are more entries.
                if SUMS && (total < need || need == 0) {
                    barrier::sync();
                    return if need == 0 { Cut::none() } else { Cut::all(n) };
                }
            }
            descent = descend::<SUMS, WARPS>(cta, descent, ranges, need, width);
        }
        barrier::sync();
    }
    // The last digit leaves one key: entries of equal weight, of which the need takes the quotient, rounded up.
    let (missing, weight) = (need - descent.weight, weight(descent.prefix));
    // Entries without weight reach no need.
    let ties = if weight == 0 { 0 } else { missing.div_ceil(weight) as u32 };
    Cut { threshold: descent.prefix, ties, count: descent.count + ties, reached: true }
}

/// Fills the histogram of one digit, `width` bits above `shift`, over the entries with the digits `prefix` above it.
#[inline(always)]
unsafe fn histogram<const SUMS: bool, const WARPS: u32>(
    cta: Cta<WARPS>,
    n: u32,
    prefix: u32,
    shift: u32,
    width: u32,
    key: &impl Fn(u32) -> u32,
    weight: &impl Fn(u32) -> u64,
) {
    let threads = Cta::<WARPS>::THREADS;
    let bins = cta.smem + SCRATCH_BYTES;
    let add = |bin: u32, count: u32, sum: u64| {
        let at = bins + 4 * bin;
        // SAFETY: `bin` is a digit; all threads add between two barriers.
        unsafe {
            red_shared_add_u32(at, count);
            if SUMS {
                red_shared_add_u64(at + LOW, at + HIGH, sum);
            }
        }
    };
    // SAFETY: inside the histogram, which nothing else uses now.
    unsafe {
        let bytes = if SUMS { 12 * BINS } else { 4 * BINS };
        for at in (16 * cta.thread.index..bytes).step_by(16 * threads as usize) {
            st_shared_v4_b32(bins + at, [0; 4]);
        }
        barrier::sync();
    }
    // Equal digits in a row.
    let (mut run_bin, mut run_count, mut run_weight) = (0, 0, 0);
    let mut round = 0;
    while round < n {
        let index = |j| round + j * threads + cta.thread.index;
        // Past the end, the last entry once more: loads that wait for no branch are under way together.
        let keys: [u32; BATCH as usize] = core::array::from_fn(|j| key(index(j as u32).min(n - 1)));
        for j in 0..BATCH {
            let key = keys[j as usize];
            let digits = key >> shift;
            if index(j) < n && digits >> width == prefix {
                let bin = digits & ((1 << width) - 1);
                if bin != run_bin {
                    add(run_bin, run_count, run_weight);
                    (run_bin, run_count, run_weight) = (bin, 0, 0);
                }
                run_count += 1;
                run_weight += weight(key);
            }
        }
        // Lanes that went different ways load the next entries together.
        // SAFETY: the number of rounds is the CTA's.
        unsafe { barrier::sync_warp() };
        round += BATCH * threads;
    }
    if run_count != 0 {
        add(run_bin, run_count, run_weight);
    }
    // SAFETY: the caller's.
    unsafe { barrier::sync() }
}

/// A bin, or several.
#[derive(Clone, Copy)]
struct Bin {
    count: u32,
    weight: u64,
}

impl Bin {
    /// The bin at place `place` of the descending order of `bins` bins.
    ///
    /// # Safety
    /// `place < bins`; the histogram is filled.
    #[inline(always)]
    unsafe fn load<const SUMS: bool>(histogram: u32, bins: u32, place: u32) -> Self {
        let at = histogram + 4 * (bins - 1 - place);
        // SAFETY: the caller's.
        unsafe {
            let count = ld_shared_b32(at);
            let weight = match SUMS {
                true => (ld_shared_b32(at + HIGH) as u64) << 32 | ld_shared_b32(at + LOW) as u64,
                false => count as u64,
            };
            Self { count, weight }
        }
    }

    /// The sum of the bins of this lane and of those before it.
    ///
    /// # Safety
    /// Reached by all lanes of the warp.
    #[inline(always)]
    unsafe fn inclusive<const SUMS: bool>(self, lane: u32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let count = shuffle::inclusive_sum_u32(self.count, lane);
            let weight = match SUMS {
                true => shuffle::inclusive_sum_u64(self.weight, lane),
                false => count as u64,
            };
            Self { count, weight }
        }
    }
}

/// The sums of the histogram over ranges of bins in descending order, of warp 0 up to that of the warp with the number of
/// this lane; beyond the last warp, of all.
#[inline(always)]
unsafe fn sum_ranges<const SUMS: bool, const WARPS: u32>(cta: Cta<WARPS>, width: u32) -> Bin {
    let (warp, lane) = (cta.thread.warp, cta.thread.lane);
    let bins = 1 << width;
    let range = bins / WARPS;
    // SAFETY: bins of the warp's range; every warp has a place in the scratch, written and read between barriers.
    unsafe {
        let mut sum = Bin { count: 0, weight: 0 };
        for first in (0..range).step_by(WARP as usize) {
            let bin = Bin::load::<SUMS>(cta.smem + SCRATCH_BYTES, bins, warp * range + first + lane);
            sum.count += bin.count;
            sum.weight += bin.weight;
        }
        let count = redux::add_u32(sum.count);
        let weight = if SUMS { redux::sum_u64(sum.weight) } else { count as u64 };
        if lane == 0 {
            let [low, high] = [weight as u32, (weight >> 32) as u32];
            st_shared_v4_b32(cta.smem + 16 * warp, [low, high, count, 0]);
        }
        barrier::sync();
        let mut of_warp = Bin { count: 0, weight: 0 };
        if lane < WARPS {
            let [low, high, count, _] = ld_shared_v4_b32(cta.smem + 16 * lane);
            of_warp = Bin { count, weight: (high as u64) << 32 | low as u64 };
        }
        of_warp.inclusive::<SUMS>(lane)
    }
}

/// Finds the bin in which the need is reached.
#[inline(always)]
unsafe fn descend<const SUMS: bool, const WARPS: u32>(
    cta: Cta<WARPS>,
    from: Descent,
    ranges: Bin,
    need: u64,
    width: u32,
) -> Descent {
    let (warp, lane) = (cta.thread.warp, cta.thread.lane);
    let bins = 1 << width;
    let range = bins / WARPS;
    let found = cta.smem + FOUND;
    // SAFETY: bins of the warp's range; one lane of one warp writes what was found, all read it behind the barrier.
    unsafe {
        // Sums only grow: it is the first range that reaches the need. There is one, the bins' sums being exact.
        let reaching = vote::ballot(from.weight + ranges.weight >= need).trailing_zeros();
        if warp == reaching {
            let before = reaching.saturating_sub(1);
            let (count, weight) =
                (shuffle::idx(ranges.count, before), shuffle::idx_u64(ranges.weight, before));
            let mut sum = from;
            if reaching > 0 {
                (sum.count, sum.weight) = (from.count + count, from.weight + weight);
            }
            for first in (0..range).step_by(WARP as usize) {
                let place = warp * range + first + lane;
                let bin = Bin::load::<SUMS>(cta.smem + SCRATCH_BYTES, bins, place);
                let upto = bin.inclusive::<SUMS>(lane);
                let reached = vote::ballot(sum.weight + upto.weight >= need);
                if reached != 0 {
                    if lane == reached.trailing_zeros() {
                        let weight = sum.weight + upto.weight - bin.weight;
                        let count = sum.count + upto.count - bin.count;
                        let [low, high] = [weight as u32, (weight >> 32) as u32];
                        st_shared_v4_b32(
                            found,
                            [low, high, count, from.prefix << width | (bins - 1 - place)],
                        );
                    }
                    break;
                }
                sum.count += shuffle::idx(upto.count, WARP - 1);
                sum.weight += shuffle::idx_u64(upto.weight, WARP - 1);
            }
        }
        barrier::sync();
        let [low, high, count, prefix] = ld_shared_v4_b32(found);
        Descent { prefix, count, weight: (high as u64) << 32 | low as u64 }
    }
}
