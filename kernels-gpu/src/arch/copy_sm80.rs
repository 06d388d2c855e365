//! `cp.async`: copies from global to shared memory that pass by the registers and the first-level cache.

use core::arch::asm;

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.cp.async.commit.group"]
    fn commit_group();
    #[link_name = "llvm.nvvm.cp.async.wait.group"]
    fn wait_group(pending: u32);
}

/// Begins to copy 16 bytes.
///
/// # Safety
/// Both addresses are multiples of 16 and inside their buffers; `shared` is not accessed before the wait.
#[inline(always)]
pub unsafe fn cp_async_cg_16(shared: u32, global: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("cp.async.cg.shared.global [{0}], [{1}], 16;", in(reg32) shared, in(reg64) global,
            options(nostack, preserves_flags));
    }
}

/// Begins to copy 16 bytes, or to fill them with zeros without reading if not `valid`.
///
/// # Safety
/// As [`cp_async_cg_16`]; `global` need only be inside its buffer if `valid`.
#[inline(always)]
pub unsafe fn cp_async_cg_16_zfill(shared: u32, global: u64, valid: bool) {
    let src_size = if valid { 16u32 } else { 0 };
    // SAFETY: the caller's.
    unsafe {
        asm!("cp.async.cg.shared.global [{0}], [{1}], 16, {2};", in(reg32) shared, in(reg64) global,
            in(reg32) src_size, options(nostack, preserves_flags));
    }
}

/// Closes the group of the copies this thread has begun since the last one.
#[inline(always)]
pub fn cp_async_commit_group() {
    // SAFETY: touches nothing but the thread's own copies.
    unsafe { commit_group() }
}

/// Waits until at most `PENDING` of this thread's groups are under way. Other threads see its copies after a barrier.
#[inline(always)]
pub fn cp_async_wait_group<const PENDING: u32>() {
    // SAFETY: touches nothing but the thread's own copies.
    unsafe { wait_group(PENDING) }
}
