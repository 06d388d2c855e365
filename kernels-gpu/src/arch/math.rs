//! Arithmetic that Rust would compile to more than one instruction.
//!
//! On the host the functions are those of the standard library, for the tests of what is built from them.

#[cfg(target_arch = "nvptx64")]
mod device {
    unsafe extern "unadjusted" {
        #[link_name = "llvm.nvvm.ex2.approx.ftz.f32"]
        fn ex2_approx_ftz_f32(x: f32) -> f32;
        #[link_name = "llvm.nvvm.lg2.approx.ftz.f"]
        fn lg2_approx_ftz_f(x: f32) -> f32;
        #[link_name = "llvm.nvvm.rcp.approx.ftz.f"]
        fn rcp_approx_ftz_f(x: f32) -> f32;
        #[link_name = "llvm.sqrt.f32"]
        fn sqrt_f32(x: f32) -> f32;
        #[link_name = "llvm.fma.f32"]
        fn fma_f32(a: f32, b: f32, c: f32) -> f32;
    }

    /// `2^x` within 2 units in the last place; subnormal results are 0, and `2^-inf` is.
    #[inline(always)]
    pub fn ex2(x: f32) -> f32 {
        // SAFETY: arithmetic.
        unsafe { ex2_approx_ftz_f32(x) }
    }

    /// `log2 x`.
    #[inline(always)]
    pub fn lg2(x: f32) -> f32 {
        // SAFETY: arithmetic.
        unsafe { lg2_approx_ftz_f(x) }
    }

    /// `1 / x` within 1 unit in the last place.
    #[inline(always)]
    pub fn rcp(x: f32) -> f32 {
        // SAFETY: arithmetic.
        unsafe { rcp_approx_ftz_f(x) }
    }

    /// The root, rounded to nearest; NaN of what is below 0.
    #[inline(always)]
    pub fn sqrt(x: f32) -> f32 {
        // SAFETY: arithmetic.
        unsafe { sqrt_f32(x) }
    }

    /// `a b + c`, rounded once. Rust never contracts the two operations by itself.
    #[inline(always)]
    pub fn fma(a: f32, b: f32, c: f32) -> f32 {
        // SAFETY: arithmetic.
        unsafe { fma_f32(a, b, c) }
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod host {
    /// `2^x`.
    pub fn ex2(x: f32) -> f32 {
        x.exp2()
    }

    /// `log2 x`.
    pub fn lg2(x: f32) -> f32 {
        x.log2()
    }

    /// `1 / x`.
    pub fn rcp(x: f32) -> f32 {
        x.recip()
    }

    /// `a b + c`, rounded once.
    pub fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Quotient and remainder. Rust's operators would bring a panic along.
///
/// # Safety
/// `divisor` is not 0.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub unsafe fn div_rem(dividend: u32, divisor: u32) -> (u32, u32) {
    // SAFETY: the caller's.
    unsafe { core::hint::assert_unchecked(divisor != 0) };
    (dividend / divisor, dividend % divisor)
}

#[cfg(target_arch = "nvptx64")]
pub use device::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use host::*;
