//! Dynamic shared memory: its base, and `ld.shared` and `st.shared` by 32-bit address.

use core::arch::{asm, global_asm};

// `crate::smem::step_columns` flips address bits within rows of 128 bytes: tiles begin at multiples of that.
global_asm!(".extern .shared .align 128 .b8 dynamic_smem[];");

/// The address of the CTA's dynamic shared memory, a multiple of 128.
#[inline(always)]
pub fn dynamic_smem() -> u32 {
    let base: u32;
    // SAFETY: reads the address of a symbol.
    unsafe {
        asm!("mov.u32 {0}, dynamic_smem;", out(reg32) base, options(pure, nomem, nostack, preserves_flags));
    }
    base
}

/// Loads 4 bytes.
///
/// # Safety
/// `address` is a multiple of 4 inside shared memory, and no thread writes there meanwhile.
#[inline(always)]
pub unsafe fn ld_shared_f32(address: u32) -> f32 {
    let value: f32;
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.shared.f32 {0}, [{1}];", out(reg32) value, in(reg32) address,
            options(readonly, nostack, preserves_flags));
    }
    value
}

/// Loads 4 bytes.
///
/// # Safety
/// As [`ld_shared_f32`].
#[inline(always)]
pub unsafe fn ld_shared_b32(address: u32) -> u32 {
    let value: u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.shared.b32 {0}, [{1}];", out(reg32) value, in(reg32) address,
            options(readonly, nostack, preserves_flags));
    }
    value
}

/// Loads 8 bytes.
///
/// # Safety
/// As [`ld_shared_f32`], for 8 bytes.
#[inline(always)]
pub unsafe fn ld_shared_v2_b32(address: u32) -> [u32; 2] {
    let (a, b): (u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.shared.v2.b32 {{{0}, {1}}}, [{2}];", out(reg32) a, out(reg32) b, in(reg32) address,
            options(readonly, nostack, preserves_flags));
    }
    [a, b]
}

/// Loads 16 bytes.
///
/// # Safety
/// As [`ld_shared_f32`], for 16 bytes.
#[inline(always)]
pub unsafe fn ld_shared_v4_b32(address: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ld.shared.v4.b32 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) a, out(reg32) b, out(reg32) c,
            out(reg32) d, in(reg32) address, options(readonly, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Stores 4 bytes.
///
/// # Safety
/// `address` is a multiple of 4 inside shared memory, and no other thread accesses it meanwhile.
#[inline(always)]
pub unsafe fn st_shared_b32(address: u32, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.shared.b32 [{0}], {1};", in(reg32) address, in(reg32) value,
            options(nostack, preserves_flags));
    }
}

/// Stores two f32.
///
/// # Safety
/// As [`st_shared_b32`], for 8 bytes.
#[inline(always)]
pub unsafe fn st_shared_v2_f32(address: u32, value: [f32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.shared.v2.f32 [{0}], {{{1}, {2}}};", in(reg32) address, in(reg32) value[0],
            in(reg32) value[1], options(nostack, preserves_flags));
    }
}

/// Stores 8 bytes.
///
/// # Safety
/// As [`st_shared_b32`], for 8 bytes.
#[inline(always)]
pub unsafe fn st_shared_v2_b32(address: u32, value: [u32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.shared.v2.b32 [{0}], {{{1}, {2}}};", in(reg32) address, in(reg32) value[0],
            in(reg32) value[1], options(nostack, preserves_flags));
    }
}

/// Stores 16 bytes.
///
/// # Safety
/// As [`st_shared_b32`], for 16 bytes.
#[inline(always)]
pub unsafe fn st_shared_v4_b32(address: u32, value: [u32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("st.shared.v4.b32 [{0}], {{{1}, {2}, {3}, {4}}};", in(reg32) address, in(reg32) value[0],
            in(reg32) value[1], in(reg32) value[2], in(reg32) value[3], options(nostack, preserves_flags));
    }
}
