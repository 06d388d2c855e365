//! `atom` and `red`: words of shared or global memory that other threads change as well; and the fence that goes with them.

use core::arch::asm;

/// Adds to 4 bytes, and returns what was there.
///
/// # Safety
/// `address` is a multiple of 4 inside shared memory, initialised before a barrier; until the next barrier all accesses
/// of all threads are atomic.
#[inline(always)]
pub unsafe fn atom_shared_add_u32(address: u32, value: u32) -> u32 {
    let old: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("atom.shared.add.u32 {0}, [{1}], {2};", out(reg32) old, in(reg32) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
    old
}

/// Adds to 4 bytes.
///
/// # Safety
/// As [`atom_shared_add_u32`].
#[inline(always)]
pub unsafe fn red_shared_add_u32(address: u32, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.shared.add.u32 [{0}], {1};", in(reg32) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Adds to a number of 64 bits whose halves lie at two addresses. Shared memory adds 32 bits at a time and would loop over
/// compare-and-swap for more; each addition that overflows the low half carries once, in whatever order they come.
///
/// # Safety
/// As [`atom_shared_add_u32`], for both addresses.
#[inline(always)]
pub unsafe fn red_shared_add_u64(low: u32, high: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        let old = atom_shared_add_u32(low, value as u32);
        let carry = old.checked_add(value as u32).is_none() as u32;
        let add = (value >> 32) as u32 + carry;
        if add != 0 {
            red_shared_add_u32(high, add);
        }
    }
}

/// Adds to 4 bytes of global memory, and returns what was there.
///
/// # Safety
/// `address` is a multiple of 4 inside a buffer; what other threads do there meanwhile is atomic.
#[inline(always)]
pub unsafe fn atom_global_add_u32(address: u64, value: u32) -> u32 {
    let old: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("atom.global.add.u32 {0}, [{1}], {2};", out(reg32) old, in(reg64) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
    old
}

/// Adds to 4 bytes of global memory.
///
/// # Safety
/// As [`atom_global_add_u32`].
#[inline(always)]
pub unsafe fn red_global_add_u32(address: u64, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.global.add.u32 [{0}], {1};", in(reg64) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Adds to 8 bytes of global memory.
///
/// # Safety
/// As [`atom_global_add_u32`], for a multiple of 8.
#[inline(always)]
pub unsafe fn red_global_add_u64(address: u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.global.add.u64 [{0}], {1};", in(reg64) address, in(reg64) value,
            options(nostack, preserves_flags));
    }
}

/// Sets the bits of `value` in 4 bytes of global memory.
///
/// # Safety
/// As [`atom_global_add_u32`].
#[inline(always)]
pub unsafe fn red_global_or_b32(address: u64, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.global.or.b32 [{0}], {1};", in(reg64) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Leaves the lesser of `value` and what is in 4 bytes of global memory.
///
/// # Safety
/// As [`atom_global_add_u32`].
#[inline(always)]
pub unsafe fn red_global_min_u32(address: u64, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.global.min.u32 [{0}], {1};", in(reg64) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Leaves the lesser of `value` and what is in 8 bytes of global memory.
///
/// # Safety
/// As [`atom_global_add_u32`], for a multiple of 8.
#[inline(always)]
pub unsafe fn red_global_min_u64(address: u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("red.global.min.u64 [{0}], {1};", in(reg64) address, in(reg64) value,
            options(nostack, preserves_flags));
    }
}

/// Orders what this thread did before against what it does after, for all threads of the device that synchronise with it.
#[inline(always)]
pub fn fence_gpu() {
    // SAFETY: orders memory accesses and makes none.
    unsafe { asm!("fence.acq_rel.gpu;", options(nostack, preserves_flags)) };
}
