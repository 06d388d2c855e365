//! Arithmetic on pairs of 16-bit floats.

use core::arch::asm;

/// Pairs of `-0.0`, which added to a product leave it as it is.
const NEGATIVE_ZEROS: u32 = 0x8000_8000;

/// The products of two pairs of bf16, to nearest even. Compute capability 8.0 multiplies them by a fused addition alone.
#[inline(always)]
pub fn mul_rn_bf16x2(a: u32, b: u32) -> u32 {
    let product: u32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("fma.rn.bf16x2 {0}, {1}, {2}, {3};", out(reg32) product, in(reg32) a, in(reg32) b,
            in(reg32) NEGATIVE_ZEROS, options(pure, nomem, nostack, preserves_flags));
    }
    product
}

/// The products of two pairs of f16, to nearest even.
#[inline(always)]
pub fn mul_rn_f16x2(a: u32, b: u32) -> u32 {
    let product: u32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("mul.rn.f16x2 {0}, {1}, {2};", out(reg32) product, in(reg32) a, in(reg32) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    product
}
