//! The tensor-core step in AVX2 and AVX-512.
//!
//! The fragments need almost no shuffling. A register of A, read as 16-bit values, is an 8×8 matrix in row order. Four
//! 4×4 transpositions turn a register of B into one vector for every pair of k; they leave the columns in the order
//! 0 2 4 6 1 3 5 7, which is that of two registers of C side by side. Two neighbouring k share each 32-bit element: their
//! exponents are added and compared as pairs of 16-bit numbers, and `vpmaddwd` with one half of B zeroed is an exact
//! product of one of them.

use std::arch::x86_64::*;

use super::Lanes;
use super::mma_step::{Exceptions, Kind};

/// Whether the host runs [`step_avx2`].
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Whether the host runs [`step_avx512`].
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// The step, eight columns of one row per vector. Panics without AVX2.
pub(crate) fn step_avx2(
    kind: Kind,
    a: &[Lanes],
    b: &[Lanes],
    c: &[Lanes; 4],
    d: &mut [Lanes; 4],
) -> Exceptions {
    assert!(has_avx2(), "this host has no AVX2");
    // SAFETY: the host has AVX2.
    unsafe {
        match (a, b) {
            ([a0, a1], [b0]) => avx2::<1>(kind, &[[a0, a1]], &[b0], c, d),
            ([a0, a1, a2, a3], [b0, b1]) => avx2::<2>(kind, &[[a0, a1], [a2, a3]], &[b0, b1], c, d),
            _ => unreachable!("a step has 8 or 16 columns of k"),
        }
    }
}

/// The step, eight columns of two rows per vector. Panics without AVX-512 F, BW, DQ and VL.
pub(crate) fn step_avx512(
    kind: Kind,
    a: &[Lanes],
    b: &[Lanes],
    c: &[Lanes; 4],
    d: &mut [Lanes; 4],
) -> Exceptions {
    assert!(has_avx512(), "this host has no AVX-512");
    // SAFETY: the host has AVX2 and AVX-512 F, BW, DQ and VL.
    unsafe {
        match (a, b) {
            ([a0, a1], [b0]) => avx512::<1>(kind, &[[a0, a1]], &[b0], c, d),
            ([a0, a1, a2, a3], [b0, b1]) => avx512::<2>(kind, &[[a0, a1], [a2, a3]], &[b0, b1], c, d),
            _ => unreachable!("a step has 8 or 16 columns of k"),
        }
    }
}

/// Decoded A: for row g, pair of k and the two rows g and g + 8, a pair of 16-bit numbers in a u32.
type Rows = [[[u32; 2]; 8]; 8];

struct Operands {
    a_significand: Rows,
    a_exponent: Rows,
    /// Pairs of k; the low or the high number of an element.
    b_significand: [__m256i; 8],
    b_exponent: [__m256i; 8],
    special: bool,
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[u32]) -> __m256i {
    assert!(values.len() >= 8);
    // SAFETY: eight values are readable, at any alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(values: &mut [[u32; 2]; 8], at: usize, v: __m256i) {
    let half = &mut values[at..at + 4];
    // SAFETY: four pairs are 32 writable bytes, at any alignment.
    unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), v) }
}

/// Sixteen operands as exponent fields and signed significands shifted left by `shift`.
#[inline]
#[target_feature(enable = "avx2")]
fn decode(kind: Kind, x: __m256i, shift: u32, special: &mut __m256i) -> (__m256i, __m256i) {
    let field_mask = _mm256_set1_epi16(kind.operand_special as i16);
    let hidden = _mm256_set1_epi16(1 << kind.operand_fraction);
    let zero = _mm256_setzero_si256();
    let field =
        _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(kind.operand_fraction as i32)), field_mask);
    *special = _mm256_or_si256(*special, _mm256_cmpeq_epi16(field, field_mask));
    let fraction = _mm256_and_si256(x, _mm256_sub_epi16(hidden, _mm256_set1_epi16(1)));
    let magnitude = _mm256_or_si256(fraction, _mm256_andnot_si256(_mm256_cmpeq_epi16(field, zero), hidden));
    let shifted = _mm256_sll_epi16(magnitude, _mm_cvtsi32_si128(shift as i32));
    let exponent = _mm256_max_epi16(field, _mm256_set1_epi16(1));
    let exponent = _mm256_blendv_epi8(
        exponent,
        _mm256_set1_epi16(kind.zero_field as i16),
        _mm256_cmpeq_epi16(magnitude, zero),
    );
    (exponent, _mm256_sign_epi16(shifted, x))
}

/// Decodes all operands. The shift of the product is split so that both factors fit 16 bits: bf16 has 8-bit significands
/// and a shift of at most 11, f16 has 11 bits and at most 5.
#[inline]
#[target_feature(enable = "avx2")]
fn operands<const BLOCKS: usize>(kind: Kind, a: &[[&Lanes; 2]; BLOCKS], b: &[&Lanes; BLOCKS]) -> Operands {
    let a_shift = kind.product_shift().min(14 - kind.operand_fraction);
    let b_shift = kind.product_shift() - a_shift;
    let mut special = _mm256_setzero_si256();
    let mut operands = Operands {
        a_significand: [[[0; 2]; 8]; 8],
        a_exponent: [[[0; 2]; 8]; 8],
        b_significand: [_mm256_setzero_si256(); 8],
        b_exponent: [_mm256_setzero_si256(); 8],
        special: false,
    };
    for block in 0..BLOCKS {
        for two_rows in 0..4 {
            // Rows 2j and 2j + 1 of the upper, then of the lower half of the tile.
            let upper = decode(kind, load(&a[block][0][8 * two_rows..]), a_shift, &mut special);
            let lower = decode(kind, load(&a[block][1][8 * two_rows..]), a_shift, &mut special);
            for (rows, upper, lower) in [
                (&mut operands.a_exponent, upper.0, lower.0),
                (&mut operands.a_significand, upper.1, lower.1),
            ] {
                let (low, high) = (_mm256_unpacklo_epi32(upper, lower), _mm256_unpackhi_epi32(upper, lower));
                store(&mut rows[2 * two_rows], 4 * block, _mm256_permute2x128_si256::<0x20>(low, high));
                store(&mut rows[2 * two_rows + 1], 4 * block, _mm256_permute2x128_si256::<0x31>(low, high));
            }
        }
        let row = |j: usize| load(&b[block][8 * j..]);
        let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
        let (u0, u1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
        let (u2, u3) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
        let pairs = [
            _mm256_unpacklo_epi64(u0, u2),
            _mm256_unpackhi_epi64(u0, u2),
            _mm256_unpacklo_epi64(u1, u3),
            _mm256_unpackhi_epi64(u1, u3),
        ];
        for (t, pair) in pairs.into_iter().enumerate() {
            let (exponent, significand) = decode(kind, pair, b_shift, &mut special);
            operands.b_exponent[4 * block + t] = exponent;
            operands.b_significand[4 * block + t] = significand;
        }
    }
    operands.special = _mm256_movemask_epi8(special) != 0;
    operands
}

#[target_feature(enable = "avx2")]
fn avx2<const BLOCKS: usize>(
    kind: Kind,
    a: &[[&Lanes; 2]; BLOCKS],
    b: &[&Lanes; BLOCKS],
    c: &[Lanes; 4],
    d: &mut [Lanes; 4],
) -> Exceptions {
    let operands = operands(kind, a, b);
    let low_half = _mm256_set1_epi32(0xffff);
    let b_low = operands.b_significand.map(|v| _mm256_and_si256(v, low_half));
    let b_high = operands.b_significand.map(|v| _mm256_andnot_si256(low_half, v));
    let c_bias = _mm256_set1_epi32(kind.product_bias - 127);
    let c_shift = _mm_cvtsi32_si128(kind.fraction_bits - 23);
    let scale_bias = _mm_set1_epi32(1023 - kind.product_bias - kind.fraction_bits);
    let exact_from = _mm256_set1_epi32(kind.exact_from());
    let infinite = _mm256_set1_epi32(0xff);
    let both = _mm256_set1_epi32(0x0100_0100);
    let duplicate = _mm256_add_epi32(
        both,
        _mm256_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c, 0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c),
    );
    let mut c_special = _mm256_setzero_si256();
    let mut exceptions = Exceptions { operands: operands.special, ..Exceptions::default() };
    for row in 0..16 {
        let (g, h) = (row % 8, row / 8);
        let halves = |v: &[Lanes; 4]| {
            // SAFETY: lanes 4g to 4g + 3 of both registers are readable, at any alignment.
            unsafe {
                _mm256_loadu2_m128i(
                    v[2 * h + 1].as_ptr().add(4 * g).cast(),
                    v[2 * h].as_ptr().add(4 * g).cast(),
                )
            }
        };
        let bits = halves(c);
        let field = _mm256_and_si256(_mm256_srli_epi32::<23>(bits), infinite);
        c_special = _mm256_or_si256(c_special, _mm256_cmpeq_epi32(field, infinite));
        let hidden = _mm256_andnot_si256(
            _mm256_cmpeq_epi32(field, _mm256_setzero_si256()),
            _mm256_set1_epi32(0x80_0000),
        );
        let c_magnitude = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7f_ffff)), hidden);
        let c_exponent = _mm256_add_epi32(_mm256_max_epi32(field, _mm256_set1_epi32(1)), c_bias);

        let exponent_of = |pair: usize| {
            _mm256_add_epi16(
                _mm256_set1_epi32(operands.a_exponent[g][pair][h] as i32),
                operands.b_exponent[pair],
            )
        };
        let mut largest = exponent_of(0);
        for pair in 1..4 * BLOCKS {
            largest = _mm256_max_epi16(largest, exponent_of(pair));
        }
        let largest = _mm256_max_epi32(
            _mm256_srai_epi32::<16>(largest),
            _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(largest)),
        );
        let largest = _mm256_max_epi32(largest, c_exponent);
        let largest_twice = _mm256_shuffle_epi8(largest, duplicate);

        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for pair in 0..4 * BLOCKS {
            let significand = _mm256_set1_epi32(operands.a_significand[g][pair][h] as i32);
            let distance = _mm256_sub_epi16(largest_twice, exponent_of(pair));
            let low = _mm256_madd_epi16(significand, b_low[pair]);
            let high = _mm256_madd_epi16(significand, b_high[pair]);
            let low_cut = _mm256_srlv_epi32(_mm256_abs_epi32(low), _mm256_and_si256(distance, low_half));
            let high_cut = _mm256_srlv_epi32(_mm256_abs_epi32(high), _mm256_srli_epi32::<16>(distance));
            even = _mm256_add_epi32(even, _mm256_sign_epi32(low_cut, low));
            odd = _mm256_add_epi32(odd, _mm256_sign_epi32(high_cut, high));
        }
        // Sixteen products stay below 2^31 together; the accumulator is added in f64, where the sum is exact.
        let sum = _mm256_add_epi32(even, odd);
        let c_cut =
            _mm256_srlv_epi32(_mm256_sll_epi32(c_magnitude, c_shift), _mm256_sub_epi32(largest, c_exponent));
        let c_negative = _mm256_srai_epi32::<31>(bits);
        let accumulator = _mm256_sub_epi32(_mm256_xor_si256(c_cut, c_negative), c_negative);

        let value = |sum: __m128i, accumulator: __m128i, largest: __m128i| {
            let total = _mm256_add_pd(_mm256_cvtepi32_pd(sum), _mm256_cvtepi32_pd(accumulator));
            let scale = _mm256_slli_epi64::<52>(_mm256_cvtepi32_epi64(_mm_add_epi32(largest, scale_bias)));
            _mm256_mul_pd(total, _mm256_castsi256_pd(scale))
        };
        let low = value(
            _mm256_castsi256_si128(sum),
            _mm256_castsi256_si128(accumulator),
            _mm256_castsi256_si128(largest),
        );
        let high = value(
            _mm256_extracti128_si256::<1>(sum),
            _mm256_extracti128_si256::<1>(accumulator),
            _mm256_extracti128_si256::<1>(largest),
        );
        // Clearing the digits that f32 lacks is the truncation toward zero.
        let digits = _mm256_castsi256_pd(_mm256_set1_epi64x(!0x1fff_ffff));
        for (register, value) in [(2 * h, low), (2 * h + 1, high)] {
            let result = _mm256_cvtpd_ps(_mm256_and_pd(value, digits));
            // SAFETY: lanes 4g to 4g + 3 are writable, at any alignment.
            unsafe { _mm_storeu_ps(d[register].as_mut_ptr().add(4 * g).cast(), result) }
        }
        if _mm256_movemask_epi8(_mm256_cmpgt_epi32(exact_from, largest)) != 0 {
            let limit = _mm256_set1_pd(f32::MIN_POSITIVE as f64);
            let zero = _mm256_setzero_pd();
            for (register, value) in [(2 * h, low), (2 * h + 1, high)] {
                let magnitude = _mm256_andnot_pd(_mm256_set1_pd(-0.0), value);
                let below = _mm256_cmp_pd::<_CMP_LT_OQ>(magnitude, limit);
                let small = _mm256_and_pd(below, _mm256_cmp_pd::<_CMP_NEQ_OQ>(value, zero));
                exceptions.small[register] |= (_mm256_movemask_pd(small) as u32) << (4 * g);
            }
        }
    }
    exceptions.accumulators = _mm256_movemask_epi8(c_special) != 0;
    exceptions
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<const BLOCKS: usize>(
    kind: Kind,
    a: &[[&Lanes; 2]; BLOCKS],
    b: &[&Lanes; BLOCKS],
    c: &[Lanes; 4],
    d: &mut [Lanes; 4],
) -> Exceptions {
    let operands = operands(kind, a, b);
    // Elements 2x and 2x + 1 are column x (in the order of B) of rows g and g + 8.
    let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let widen = |v: __m256i| _mm512_permutexvar_epi32(twice, _mm512_castsi256_si512(v));
    let low_half = _mm512_set1_epi32(0xffff);
    let b_exponent = operands.b_exponent.map(widen);
    let b_significand = operands.b_significand.map(widen);
    let b_low = b_significand.map(|v| _mm512_and_si512(v, low_half));
    let b_high = b_significand.map(|v| _mm512_andnot_si512(low_half, v));
    let c_bias = _mm512_set1_epi32(kind.product_bias - 127);
    let c_shift = _mm_cvtsi32_si128(kind.fraction_bits - 23);
    let scale_bias = _mm256_set1_epi32(1023 - kind.product_bias - kind.fraction_bits);
    let exact_from = _mm512_set1_epi32(kind.exact_from());
    let infinite = _mm512_set1_epi32(0xff);
    let interleave = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    let separate = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    let mut c_special = 0;
    let mut exceptions = Exceptions { operands: operands.special, ..Exceptions::default() };
    for g in 0..8 {
        // SAFETY: lanes 4g to 4g + 3 of every register are readable, at any alignment.
        let part = |register: usize| unsafe { _mm_loadu_si128(c[register].as_ptr().add(4 * g).cast()) };
        let (upper, lower) = (_mm256_set_m128i(part(1), part(0)), _mm256_set_m128i(part(3), part(2)));
        let joined = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(upper), lower);
        let bits = _mm512_permutexvar_epi32(interleave, joined);
        let field = _mm512_and_si512(_mm512_srli_epi32::<23>(bits), infinite);
        c_special |= _mm512_cmpeq_epi32_mask(field, infinite);
        let normal = _mm512_test_epi32_mask(field, field);
        let fraction = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f_ffff));
        let c_magnitude = _mm512_mask_or_epi32(fraction, normal, fraction, _mm512_set1_epi32(0x80_0000));
        let c_exponent = _mm512_add_epi32(_mm512_max_epi32(field, _mm512_set1_epi32(1)), c_bias);

        let rows = |pair: [u32; 2]| _mm512_set1_epi64((pair[0] as u64 | (pair[1] as u64) << 32) as i64);
        let exponent_of =
            |pair: usize| _mm512_add_epi16(rows(operands.a_exponent[g][pair]), b_exponent[pair]);
        let mut largest = exponent_of(0);
        for pair in 1..4 * BLOCKS {
            largest = _mm512_max_epi16(largest, exponent_of(pair));
        }
        let largest = _mm512_max_epi32(
            _mm512_srai_epi32::<16>(largest),
            _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(largest)),
        );
        let largest = _mm512_max_epi32(largest, c_exponent);
        let largest_twice = _mm512_mask_blend_epi16(0xaaaa_aaaa, largest, _mm512_slli_epi32::<16>(largest));

        let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for pair in 0..4 * BLOCKS {
            let significand = rows(operands.a_significand[g][pair]);
            let distance = _mm512_sub_epi16(largest_twice, exponent_of(pair));
            let low = _mm512_madd_epi16(significand, b_low[pair]);
            let high = _mm512_madd_epi16(significand, b_high[pair]);
            let low_cut = _mm512_srlv_epi32(_mm512_abs_epi32(low), _mm512_and_si512(distance, low_half));
            let high_cut = _mm512_srlv_epi32(_mm512_abs_epi32(high), _mm512_srli_epi32::<16>(distance));
            let add = |sum, cut, product| {
                _mm512_mask_sub_epi32(_mm512_add_epi32(sum, cut), _mm512_movepi32_mask(product), sum, cut)
            };
            even = add(even, low_cut, low);
            odd = add(odd, high_cut, high);
        }
        let sum = _mm512_permutexvar_epi32(separate, _mm512_add_epi32(even, odd));
        let c_cut =
            _mm512_srlv_epi32(_mm512_sll_epi32(c_magnitude, c_shift), _mm512_sub_epi32(largest, c_exponent));
        let negated = _mm512_mask_sub_epi32(c_cut, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), c_cut);
        let accumulator = _mm512_permutexvar_epi32(separate, negated);
        let largest = _mm512_permutexvar_epi32(separate, largest);

        let below = _mm512_cmpgt_epi32_mask(exact_from, largest) != 0;
        let row = |h: usize, v: __m512i| {
            if h == 0 { _mm512_castsi512_si256(v) } else { _mm512_extracti64x4_epi64::<1>(v) }
        };
        for h in 0..2 {
            let total =
                _mm512_add_pd(_mm512_cvtepi32_pd(row(h, sum)), _mm512_cvtepi32_pd(row(h, accumulator)));
            let exponent = _mm512_cvtepi32_epi64(_mm256_add_epi32(row(h, largest), scale_bias));
            let value = _mm512_mul_pd(total, _mm512_castsi512_pd(_mm512_slli_epi64::<52>(exponent)));
            // Clearing the digits that f32 lacks is the truncation toward zero.
            let digits = _mm512_castsi512_pd(_mm512_set1_epi64(!0x1fff_ffff));
            let result = _mm512_cvtpd_ps(_mm512_and_pd(value, digits));
            // SAFETY: lanes 4g to 4g + 3 of both registers are writable, at any alignment.
            unsafe {
                _mm_storeu_ps(d[2 * h].as_mut_ptr().add(4 * g).cast(), _mm256_castps256_ps128(result));
                _mm_storeu_ps(
                    d[2 * h + 1].as_mut_ptr().add(4 * g).cast(),
                    _mm256_extractf128_ps::<1>(result),
                );
            }
            if below {
                let limit = _mm512_set1_pd(f32::MIN_POSITIVE as f64);
                let small = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(_mm512_abs_pd(value), limit)
                    & _mm512_cmp_pd_mask::<_CMP_NEQ_OQ>(value, _mm512_setzero_pd());
                exceptions.small[2 * h] |= (small as u32 & 15) << (4 * g);
                exceptions.small[2 * h + 1] |= (small as u32 >> 4) << (4 * g);
            }
        }
    }
    exceptions.accumulators = c_special != 0;
    exceptions
}
