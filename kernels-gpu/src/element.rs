//! The 16-bit element types, as what differs between them: products and conversions.

use crate::arch::{convert, half2, mma_sm80};

/// A 16-bit float that the tensor cores multiply.
pub(crate) trait Element {
    /// The bits of both exponents of a pair.
    const EXPONENTS: u32;

    /// `c += a b`.
    ///
    /// # Safety
    /// Reached by all lanes of the warp.
    unsafe fn mma(c: &mut [f32; 4], a: [u32; 4], b: [u32; 2]);

    /// Rounds to nearest even; `lo` goes to the low half.
    fn pack(lo: f32, hi: f32) -> u32;

    /// The products of two pairs, rounded to nearest even.
    fn mul(a: u32, b: u32) -> u32;

    /// The two elements of a pair, low half first.
    fn unpack(pair: u32) -> [f32; 2];

    /// Those elements of a pair that are NaN or infinite, the others as zero.
    #[inline(always)]
    fn non_finite(pair: u32) -> u32 {
        let keep = |half: u32| if pair & Self::EXPONENTS & half == Self::EXPONENTS & half { half } else { 0 };
        pair & (keep(0xffff) | keep(0xffff_0000))
    }
}

/// bfloat16.
pub(crate) struct Bf16;

/// IEEE half precision.
pub(crate) struct F16;

impl Element for Bf16 {
    const EXPONENTS: u32 = 0x7f80_7f80;

    #[inline(always)]
    unsafe fn mma(c: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
        // SAFETY: the caller's.
        unsafe { mma_sm80::mma_m16n8k16_f32_bf16(c, a, b) }
    }

    #[inline(always)]
    fn pack(lo: f32, hi: f32) -> u32 {
        convert::cvt_rn_bf16x2_f32(lo, hi)
    }

    #[inline(always)]
    fn mul(a: u32, b: u32) -> u32 {
        half2::mul_rn_bf16x2(a, b)
    }

    #[inline(always)]
    fn unpack(pair: u32) -> [f32; 2] {
        [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
    }
}

impl Element for F16 {
    const EXPONENTS: u32 = 0x7c00_7c00;

    #[inline(always)]
    unsafe fn mma(c: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
        // SAFETY: the caller's.
        unsafe { mma_sm80::mma_m16n8k16_f32_f16(c, a, b) }
    }

    #[inline(always)]
    fn pack(lo: f32, hi: f32) -> u32 {
        convert::cvt_rn_f16x2_f32(lo, hi)
    }

    #[inline(always)]
    fn mul(a: u32, b: u32) -> u32 {
        half2::mul_rn_f16x2(a, b)
    }

    #[inline(always)]
    fn unpack(pair: u32) -> [f32; 2] {
        [convert::cvt_f32_f16(pair), convert::cvt_f32_f16(pair >> 16)]
    }
}
