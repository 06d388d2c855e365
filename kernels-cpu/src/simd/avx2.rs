//! 256-bit vectors: AVX2, FMA, F16C.

use std::arch::x86_64::*;

use lacuna_core::{DType, Element};

use super::{Dot, FloatOperand, Simd};

/// The proof that the machine has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

impl Simd for Avx2 {
    type F32 = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the token; the caller vouches for the memory.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the token; the caller vouches for the memory.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_widened<T: Element>(self, p: *const T) -> __m256 {
        // SAFETY: the token; the caller vouches for the memory; the casts follow the element type.
        unsafe {
            match T::DTYPE {
                DType::F32 => _mm256_loadu_ps(p.cast()),
                DType::Bf16 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(
                    _mm_loadu_si128(p.cast()),
                ))),
                DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_rounded<T: Element>(self, p: *mut T, v: __m256) {
        // SAFETY: the token; the caller vouches for the memory; the casts follow the element type.
        unsafe {
            match T::DTYPE {
                DType::F32 => _mm256_storeu_ps(p.cast(), v),
                DType::Bf16 => {
                    let bits = _mm256_castps_si256(v);
                    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(
                        _mm256_add_epi32(bits, odd),
                        _mm256_set1_epi32(0x7fff),
                    ));
                    // Rounding could carry a NaN's significand away.
                    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                    let words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
                    let packed = _mm256_packus_epi32(words, words);
                    let packed = _mm256_permute4x64_epi64::<0b10_00>(packed);
                    _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
                }
                DType::F16 => {
                    _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
                }
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn scale_by_power(self, p: __m256, n: __m256) -> __m256 {
        // 2^n by its exponent bits; n = -127 gives 0. A NaN converts to i32::MIN, whose factor is 1.
        // SAFETY: the token.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    fn select_range(self, v: __m256, lo: i32, hi: i32, other: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane);
            let inside = _mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane));
            _mm256_blendv_ps(other, v, _mm256_castsi256_ps(inside))
        }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        // SAFETY: the token.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[inline(always)]
    unsafe fn transpose_16x16(self, rows: &[*const u32; 16], dst: *mut u32) {
        for r0 in [0, 8] {
            for w0 in [0, 8] {
                // SAFETY: the token; the caller vouches for the rows and the destination. 8 x 8 at a time, in three
                // stages of pairs: 32-bit words, 64-bit words, 128-bit halves.
                unsafe {
                    let mut a = [_mm256_setzero_ps(); 8];
                    for r in 0..8 {
                        a[r] = _mm256_loadu_ps(rows[r0 + r].add(w0).cast());
                    }
                    let mut b = a;
                    for r in [0, 2, 4, 6] {
                        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
                        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
                    }
                    for r in [0, 4] {
                        a[r] = _mm256_shuffle_ps::<0x44>(b[r], b[r + 2]);
                        a[r + 1] = _mm256_shuffle_ps::<0xee>(b[r], b[r + 2]);
                        a[r + 2] = _mm256_shuffle_ps::<0x44>(b[r + 1], b[r + 3]);
                        a[r + 3] = _mm256_shuffle_ps::<0xee>(b[r + 1], b[r + 3]);
                    }
                    for w in 0..4 {
                        let (low, high) = (
                            _mm256_permute2f128_ps::<0x20>(a[w], a[w + 4]),
                            _mm256_permute2f128_ps::<0x31>(a[w], a[w + 4]),
                        );
                        _mm256_storeu_ps(dst.add((w0 + w) * 16 + r0).cast(), low);
                        _mm256_storeu_ps(dst.add((w0 + w + 4) * 16 + r0).cast(), high);
                    }
                }
            }
        }
    }
}

/// The register tile of 6 x 16: 12 accumulators, 2 columns, 1 row, of 16 registers.
impl<P: FloatOperand> Dot<P> for Avx2 {
    const ROWS: usize = 6;
    const GROUPS: usize = 1;
    type Step = __m256;

    #[inline(always)]
    unsafe fn load_step(self, p: *const P) -> __m256 {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { P::load(self, p) }
    }
    #[inline(always)]
    unsafe fn broadcast_step(self, p: *const f32) -> __m256 {
        // SAFETY: the token; the caller vouches for one element.
        unsafe { _mm256_set1_ps(p.read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, acc: __m256, a: __m256, b: __m256) -> __m256 {
        self.mul_add(a, b, acc)
    }
    #[inline(always)]
    unsafe fn store_left(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { self.store(p, v) }
    }
}
