//! `ld.global` and `st.global` of whole vectors, by address.

use core::arch::asm;

/// Loads 2 bytes.
///
/// # Safety
/// `address` is a multiple of 2 inside a buffer.
#[inline(always)]
pub unsafe fn ld_global_b16(address: u64) -> u16 {
    let value: u16;
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.global.b16 {0}, [{1}];", out(reg16) value, in(reg64) address,
            options(readonly, nostack, preserves_flags));
    }
    value
}

/// Loads 4 bytes.
///
/// # Safety
/// `address` is a multiple of 4 inside a buffer.
#[inline(always)]
pub unsafe fn ld_global_b32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.global.b32 {0}, [{1}];", out(reg32) value, in(reg64) address,
            options(readonly, nostack, preserves_flags));
    }
    value
}

/// Loads 8 bytes.
///
/// # Safety
/// `address` is a multiple of 8 inside a buffer.
#[inline(always)]
pub unsafe fn ld_global_v2_b32(address: u64) -> [u32; 2] {
    let (a, b): (u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.global.v2.b32 {{{0}, {1}}}, [{2}];", out(reg32) a, out(reg32) b, in(reg64) address,
            options(readonly, nostack, preserves_flags));
    }
    [a, b]
}

/// Loads 16 bytes.
///
/// # Safety
/// `address` is a multiple of 16 inside a buffer.
#[inline(always)]
pub unsafe fn ld_global_v4_b32(address: u64) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.global.v4.b32 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) a, out(reg32) b, out(reg32) c,
            out(reg32) d, in(reg64) address, options(readonly, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Stores 2 bytes.
///
/// # Safety
/// As [`st_global_b32`], for 2 bytes.
#[inline(always)]
pub unsafe fn st_global_b16(address: u64, value: u16) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.b16 [{0}], {1};", in(reg64) address, in(reg16) value,
            options(nostack, preserves_flags));
    }
}

/// Stores 4 bytes.
///
/// # Safety
/// `address` is a multiple of 4 inside a buffer that no other thread reads or writes there.
#[inline(always)]
pub unsafe fn st_global_b32(address: u64, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.b32 [{0}], {1};", in(reg64) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Stores 8 bytes.
///
/// # Safety
/// As [`st_global_b32`], for 8 bytes.
#[inline(always)]
pub unsafe fn st_global_v2_b32(address: u64, value: [u32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.v2.b32 [{0}], {{{1}, {2}}};", in(reg64) address, in(reg32) value[0],
            in(reg32) value[1], options(nostack, preserves_flags));
    }
}

/// Stores 16 bytes.
///
/// # Safety
/// As [`st_global_b32`], for 16 bytes.
#[inline(always)]
pub unsafe fn st_global_v4_b32(address: u64, value: [u32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.global.v4.b32 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg64) address, in(reg32) value[0],
            in(reg32) value[1], in(reg32) value[2], in(reg32) value[3], options(nostack, preserves_flags));
    }
}
