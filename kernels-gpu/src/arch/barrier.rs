//! `barrier.cta`: all threads of a CTA meet.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.all"]
    fn barrier_cta_sync_aligned_all(id: u32);
    #[link_name = "llvm.nvvm.barrier.cta.red.or.aligned.all"]
    fn barrier_cta_red_or_aligned_all(id: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    fn bar_warp_sync(mask: u32);
}

/// Waits for all threads of the CTA; what each wrote before is visible to all after.
///
/// # Safety
/// Reached by all threads of the CTA.
#[inline(always)]
pub unsafe fn sync() {
    // SAFETY: the caller's.
    unsafe { barrier_cta_sync_aligned_all(0) }
}

/// [`sync`], and whether `predicate` holds for any thread.
///
/// # Safety
/// As [`sync`].
#[inline(always)]
pub unsafe fn sync_any(predicate: bool) -> bool {
    // SAFETY: the caller's.
    unsafe { barrier_cta_red_or_aligned_all(0, predicate) }
}

/// Waits for all lanes of the warp; what each wrote before is visible to all after.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn sync_warp() {
    // SAFETY: the caller's.
    unsafe { bar_warp_sync(u32::MAX) }
}
