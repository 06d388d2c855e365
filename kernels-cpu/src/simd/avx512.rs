//! 512-bit vectors: AVX-512 F, BW, DQ, VL, and `vdpbf16ps` where the machine has it.

use std::arch::x86_64::*;

use half::bf16;
use lacuna_core::{DType, Element};

use super::{Dot, FloatOperand, Simd};

/// The proof that the machine has AVX-512 F, BW, DQ, VL, and what [`super::avx2::Avx2`] stands for.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        let has = super::avx2::Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        has.then_some(Self(()))
    }

    /// The same, where `vdpbf16ps` is there too: what [`Dot<bf16>`] needs.
    pub(super) fn new_bf16() -> Option<Self> {
        Self::new().filter(|_| is_x86_feature_detected!("avx512bf16"))
    }
}

impl Simd for Avx512 {
    type F32 = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the token; the caller vouches for the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the token; the caller vouches for the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_widened<T: Element>(self, p: *const T) -> __m512 {
        // SAFETY: the token; the caller vouches for the memory; the casts follow the element type.
        unsafe {
            match T::DTYPE {
                DType::F32 => _mm512_loadu_ps(p.cast()),
                DType::Bf16 => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
                    _mm256_loadu_si256(p.cast()),
                ))),
                DType::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_rounded<T: Element>(self, p: *mut T, v: __m512) {
        // SAFETY: the token; the caller vouches for the memory; the casts follow the element type.
        unsafe {
            match T::DTYPE {
                DType::F32 => _mm512_storeu_ps(p.cast(), v),
                DType::Bf16 => {
                    // By integers, not `vcvtneps2bf16`: that one flushes subnormals.
                    let bits = _mm512_castps_si512(v);
                    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(
                        _mm512_add_epi32(bits, odd),
                        _mm512_set1_epi32(0x7fff),
                    ));
                    // Rounding could carry a NaN's significand away.
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                    let words = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
                    _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(words));
                }
                DType::F16 => {
                    _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
                }
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn scale_by_power(self, p: __m512, n: __m512) -> __m512 {
        // `vscalefps` has the whole range; what falls below the normal one is dropped, as on the other instruction
        // sets.
        // SAFETY: the token.
        unsafe {
            let keep = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(n, _mm512_set1_ps(-127.0));
            _mm512_maskz_scalef_ps(keep, p, n)
        }
    }
    #[inline(always)]
    fn select_range(self, v: __m512, lo: i32, hi: i32, other: __m512) -> __m512 {
        let below = |n: i32| ((1u32 << n.clamp(0, 16)) - 1) as __mmask16;
        // SAFETY: the token.
        unsafe { _mm512_mask_mov_ps(other, below(hi) & !below(lo), v) }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[inline(always)]
    unsafe fn transpose_16x16(self, rows: &[*const u32; 16], dst: *mut u32) {
        // SAFETY: the token; the caller vouches for the rows and the destination. Four stages of pairs: 32-bit words,
        // 64-bit words, then 128-bit quarters twice.
        unsafe {
            let mut a = [_mm512_setzero_si512(); 16];
            for r in 0..16 {
                a[r] = _mm512_loadu_si512(rows[r].cast());
            }
            let mut b = a;
            for r in (0..16).step_by(2) {
                b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
                b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
            }
            // Now a[4 i + w] has, in its quarter q, word 4 q + w of rows 4 i .. 4 i + 4.
            for r in (0..16).step_by(4) {
                a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
                a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
                a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
                a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
            }
            for w in 0..4 {
                let even_01 = _mm512_shuffle_i32x4::<0x88>(a[w], a[w + 4]);
                let odd_01 = _mm512_shuffle_i32x4::<0xdd>(a[w], a[w + 4]);
                let even_23 = _mm512_shuffle_i32x4::<0x88>(a[w + 8], a[w + 12]);
                let odd_23 = _mm512_shuffle_i32x4::<0xdd>(a[w + 8], a[w + 12]);
                for (quarter, words) in [
                    (0, _mm512_shuffle_i32x4::<0x88>(even_01, even_23)),
                    (1, _mm512_shuffle_i32x4::<0x88>(odd_01, odd_23)),
                    (2, _mm512_shuffle_i32x4::<0xdd>(even_01, even_23)),
                    (3, _mm512_shuffle_i32x4::<0xdd>(odd_01, odd_23)),
                ] {
                    _mm512_storeu_si512(dst.add((quarter * 4 + w) * 16).cast(), words);
                }
            }
        }
    }
}

/// The register tile of 4 x 64: 16 accumulators, 4 columns, 1 row, of 32 registers.
impl<P: FloatOperand> Dot<P> for Avx512 {
    const ROWS: usize = 4;
    const GROUPS: usize = 4;
    type Step = __m512;

    #[inline(always)]
    unsafe fn load_step(self, p: *const P) -> __m512 {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { P::load(self, p) }
    }
    #[inline(always)]
    unsafe fn broadcast_step(self, p: *const f32) -> __m512 {
        // SAFETY: the token; the caller vouches for one element.
        unsafe { _mm512_set1_ps(p.read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512, a: __m512, b: __m512) -> __m512 {
        self.mul_add(a, b, acc)
    }
    #[inline(always)]
    unsafe fn store_left(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { self.store(p, v) }
    }
}

/// Entered only where AVX512-BF16 has been found.
impl Dot<bf16> for Avx512 {
    const ROWS: usize = 4;
    const GROUPS: usize = 4;
    type Step = __m512i;

    #[inline(always)]
    unsafe fn load_step(self, p: *const bf16) -> __m512i {
        // SAFETY: the token; the caller vouches for 32 elements.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn broadcast_step(self, p: *const bf16) -> __m512i {
        // SAFETY: the token; the caller vouches for a pair.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: the entry function has AVX512-BF16; both types are 512 plain bits.
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_left(self, p: *mut bf16, v: __m512) {
        // SAFETY: the entry function has AVX512-BF16; the caller vouches for the memory; 256 plain bits.
        unsafe {
            _mm256_storeu_si256(p.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)));
        }
    }
}
