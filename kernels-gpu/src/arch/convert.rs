//! `cvt` between f32 and pairs of 16-bit floats.

use core::arch::asm;

/// Two f32 to bf16, to nearest even; `lo` in the low half.
#[inline(always)]
pub fn cvt_rn_bf16x2_f32(lo: f32, hi: f32) -> u32 {
    let pair: u32;
    // SAFETY: arithmetic on registers. The instruction's second source goes to the low half.
    unsafe {
        asm!("cvt.rn.bf16x2.f32 {0}, {1}, {2};", out(reg32) pair, in(reg32) hi, in(reg32) lo,
            options(pure, nomem, nostack, preserves_flags));
    }
    pair
}

/// Two f32 to f16, to nearest even; `lo` in the low half.
#[inline(always)]
pub fn cvt_rn_f16x2_f32(lo: f32, hi: f32) -> u32 {
    let pair: u32;
    // SAFETY: arithmetic on registers. The instruction's second source goes to the low half.
    unsafe {
        asm!("cvt.rn.f16x2.f32 {0}, {1}, {2};", out(reg32) pair, in(reg32) hi, in(reg32) lo,
            options(pure, nomem, nostack, preserves_flags));
    }
    pair
}

/// The low f16 of a pair, exactly.
#[inline(always)]
pub fn cvt_f32_f16(pair: u32) -> f32 {
    let wide: f32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("cvt.f32.f16 {0}, {1};", out(reg32) wide, in(reg16) pair as u16,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}
