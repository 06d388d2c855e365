//! `redux.sync`: sums and maxima over the lanes of a warp.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.redux.sync.add"]
    fn redux_sync_add(value: u32, mask: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.umax"]
    fn redux_sync_umax(value: u32, mask: u32) -> u32;
}

/// The sum of the values of all lanes, modulo 2^32, in each of them.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn add_u32(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { redux_sync_add(value, u32::MAX) }
}

/// The largest of the values of all lanes, in each of them.
///
/// # Safety
/// As [`add_u32`].
#[inline(always)]
pub unsafe fn max_u32(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { redux_sync_umax(value, u32::MAX) }
}

/// The sum of the 64-bit values of all lanes, modulo 2^64, in each of them: by parts, which 32 lanes do not take beyond 32
/// bits. Three instructions of the warp in place of ten shuffles that wait for one another.
///
/// # Safety
/// As [`add_u32`].
#[inline(always)]
pub unsafe fn sum_u64(value: u64) -> u64 {
    const BITS: u32 = 22;
    let part = |i: u32| (value >> (i * BITS)) as u32 & ((1 << BITS) - 1);
    // SAFETY: the caller's.
    let [low, middle, high] = unsafe { [add_u32(part(0)), add_u32(part(1)), add_u32(part(2))] };
    low as u64 + ((middle as u64) << BITS) + ((high as u64) << (2 * BITS))
}
