//! Conversions: f32 to and from the 16- and 8-bit formats and integers.
//!
//! Rules taken from the PTX ISA (`cvt`): a NaN becomes the canonical NaN of the destination; a float out of an integer's
//! range becomes the nearest end of the range; a NaN becomes integer zero, except towards 64-bit integers, where it
//! becomes `1 << 63`.

use super::format::round_to_odd;
use super::{CANONICAL_NAN_16, CANONICAL_NAN_F32, Format, Lanes, Round, WideLanes, map1, map2};

/// Modifiers of a narrowing conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Narrow {
    /// `.rn .rz .rm .rp`.
    pub round: Round,
    /// `.relu`: negative results become +0.
    pub relu: bool,
    /// `.satfinite`: overflow and infinities become the largest finite value.
    pub satfinite: bool,
    /// `.ftz`: subnormal f32 inputs count as zero.
    pub ftz: bool,
}

/// An integer type: `.s8` to `.u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// 8, 16, 32 or 64.
    pub bits: u32,
    /// `.s*` rather than `.u*`.
    pub signed: bool,
}

/// Rounding and flushing of an integer or integral conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integral {
    /// `.rni .rzi .rmi .rpi`.
    pub round: Round,
    /// `.ftz`: subnormal f32 inputs count as zero.
    pub ftz: bool,
}

/// Subnormal f32 to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `cvt.f32.bf16`: a shift, so a NaN keeps its payload.
#[inline(always)]
pub fn f32_from_bf16(a: &Lanes) -> Lanes {
    map1(a, |x| x << 16)
}

/// `cvt.f32.f16` of the low halves.
#[inline(always)]
pub fn f32_from_f16(a: &Lanes) -> Lanes {
    map1(a, f16_to_f32)
}

/// One f16 widened: exact, NaN canonical.
#[inline(always)]
pub(crate) fn f16_to_f32(x: u32) -> u32 {
    let (sign, magnitude) = ((x & 0x8000) << 16, x & 0x7fff);
    // Moving exponent and fraction up and multiplying by 2^112 corrects the bias and normalises subnormals at once.
    let finite = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
    let magnitude_f32 = if magnitude < 0x7c00 { finite } else { 0x7f80_0000 };
    if magnitude > 0x7c00 { CANONICAL_NAN_F32 } else { sign | magnitude_f32 }
}

/// `cvt.<round>.bf16.f32`.
#[inline(always)]
pub fn bf16_from_f32(a: &Lanes, mode: Narrow) -> Lanes {
    if mode == Narrow::default() { map1(a, f32_to_bf16) } else { narrow_lanes(a, Format::BF16, mode) }
}

/// `cvt.<round>.f16.f32`.
#[inline(always)]
pub fn f16_from_f32(a: &Lanes, mode: Narrow) -> Lanes {
    if mode == Narrow::default() { map1(a, f32_to_f16) } else { narrow_lanes(a, Format::F16, mode) }
}

/// `cvt.<round>.bf16x2.f32 d, high, low`: the first source operand goes to the upper half.
#[inline(always)]
pub fn bf16x2_from_f32(high: &Lanes, low: &Lanes, mode: Narrow) -> Lanes {
    if mode == Narrow::default() {
        map2(high, low, |h, l| f32_to_bf16(h) << 16 | f32_to_bf16(l))
    } else {
        pack16(&narrow_lanes(high, Format::BF16, mode), &narrow_lanes(low, Format::BF16, mode))
    }
}

/// `cvt.<round>.f16x2.f32 d, high, low`.
#[inline(always)]
pub fn f16x2_from_f32(high: &Lanes, low: &Lanes, mode: Narrow) -> Lanes {
    pack16(&f16_from_f32(high, mode), &f16_from_f32(low, mode))
}

/// `cvt.rn.satfinite.e4m3x2.f32` (or `e5m2x2`) `d, high, low`: two bytes in the low half. fp8 results always saturate.
pub fn fp8x2_from_f32(high: &Lanes, low: &Lanes, format: Format, relu: bool) -> Lanes {
    let mode = Narrow { relu, satfinite: true, ..Narrow::default() };
    map2(&narrow_lanes(high, format, mode), &narrow_lanes(low, format, mode), |h, l| h << 8 | l)
}

/// `cvt.rn.f16x2.e4m3x2` (or `e5m2x2`): both bytes of the low half to a pair of f16. Exact but for `.relu`.
pub fn f16x2_from_fp8x2(a: &Lanes, format: Format, relu: bool) -> Lanes {
    let one = |byte: u32| relu_bits(Format::F16.narrow(format.value(byte), Round::Nearest, false), 16, relu);
    map1(a, |x| one(x >> 8 & 0xff) << 16 | one(x & 0xff))
}

/// `cvt.<round>i.f32.f32`: an integral value in f32; keeps the sign of zero.
pub fn integral_f32(a: &Lanes, mode: Integral) -> Lanes {
    map1(a, |x| {
        let value = f32::from_bits(if mode.ftz { flush(x) } else { x });
        let rounded = match mode.round {
            Round::Nearest => value.round_ties_even(),
            Round::Zero => value.trunc(),
            Round::Down => value.floor(),
            Round::Up => value.ceil(),
        };
        if rounded.is_nan() { CANONICAL_NAN_F32 } else { rounded.to_bits() }
    })
}

/// `cvt.<round>i.s32.f32`.
#[inline(always)]
pub fn s32_from_f32(a: &Lanes, mode: Integral) -> Lanes {
    // A cast of Rust saturates and turns NaN into zero, as the instruction does.
    map1(&integral_f32(a, mode), |x| f32::from_bits(x) as i32 as u32)
}

/// `cvt.<round>i.u32.f32`.
#[inline(always)]
pub fn u32_from_f32(a: &Lanes, mode: Integral) -> Lanes {
    map1(&integral_f32(a, mode), |x| f32::from_bits(x) as u32)
}

/// `cvt.<round>.f32.s32`.
#[inline(always)]
pub fn f32_from_s32(a: &Lanes, round: Round) -> Lanes {
    if round == Round::Nearest {
        map1(a, |x| (x as i32 as f32).to_bits())
    } else {
        map1(a, |x| Format::F32.narrow(x as i32 as f64, round, false))
    }
}

/// `cvt.<round>.f32.u32`.
#[inline(always)]
pub fn f32_from_u32(a: &Lanes, round: Round) -> Lanes {
    if round == Round::Nearest {
        map1(a, |x| (x as f32).to_bits())
    } else {
        map1(a, |x| Format::F32.narrow(x as f64, round, false))
    }
}

/// `cvt.<round>i.<integer>.<float>` in general. The result is sign- or zero-extended to 64 bits.
pub fn integer_from_float(a: &Lanes, from: Format, to: Integer, mode: Integral) -> WideLanes {
    let mut d = [0; 32];
    for (d, &bits) in d.iter_mut().zip(a) {
        let flushed = if mode.ftz && from == Format::F32 { flush(bits) } else { bits };
        let value = from.value(flushed);
        let rounded = match mode.round {
            Round::Nearest => value.round_ties_even(),
            Round::Zero => value.trunc(),
            Round::Down => value.floor(),
            Round::Up => value.ceil(),
        };
        *d = if value.is_nan() {
            if to.bits == 64 { 1 << 63 } else { 0 }
        } else if to.signed {
            let shift = 64 - to.bits;
            (rounded as i64).clamp(i64::MIN >> shift, i64::MAX >> shift) as u64
        } else {
            (rounded as u64).min(u64::MAX >> (64 - to.bits))
        };
    }
    d
}

/// `cvt.<round>.<float>.<integer>` in general; reads the low bits of the source that the type has.
pub fn float_from_integer(a: &WideLanes, from: Integer, to: Format, round: Round) -> Lanes {
    let mut d = [0; 32];
    for (d, &bits) in d.iter_mut().zip(a) {
        let shift = 64 - from.bits;
        let (negative, magnitude) = if from.signed {
            let value = ((bits << shift) as i64) >> shift;
            (value < 0, value.unsigned_abs())
        } else {
            (false, bits << shift >> shift)
        };
        // More than 53 bits do not fit an f64: the lost ones become a last odd digit.
        let (high, low) = ((magnitude & !0x7ff) as f64, (magnitude & 0x7ff) as f64);
        let value = if magnitude >> 53 == 0 { magnitude as f64 } else { round_to_odd(high, low) };
        *d = to.narrow(if negative { -value } else { value }, round, false);
    }
    d
}

/// Two 16-bit results in one register.
#[inline(always)]
pub(crate) fn pack16(high: &Lanes, low: &Lanes) -> Lanes {
    map2(high, low, |h, l| h << 16 | l & 0xffff)
}

/// `.relu` on a result of `bits` width: negative numbers and −0 become +0, a NaN stays.
pub(crate) fn relu_bits(value: u32, bits: u32, relu: bool) -> u32 {
    // Every canonical NaN is positive, so the sign bit alone decides.
    if relu && value >> (bits - 1) & 1 != 0 { 0 } else { value }
}

fn narrow_lanes(a: &Lanes, format: Format, mode: Narrow) -> Lanes {
    map1(a, |x| {
        let value = f32::from_bits(if mode.ftz { flush(x) } else { x });
        relu_bits(format.narrow(value as f64, mode.round, mode.satfinite), format.bits(), mode.relu)
    })
}

/// One f32 to bf16, to nearest even.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: u32) -> u32 {
    let rounded = x.wrapping_add(0x7fff + (x >> 16 & 1)) >> 16;
    if x & 0x7fff_ffff > 0x7f80_0000 { CANONICAL_NAN_16 } else { rounded }
}

/// One f32 to f16, to nearest even.
#[inline(always)]
pub(crate) fn f32_to_f16(x: u32) -> u32 {
    let (sign, magnitude) = (x >> 16 & 0x8000, x & 0x7fff_ffff);
    // Normal results: rebias and round in integers; a carry out of 65504 gives infinity by itself.
    let rebiased = magnitude.wrapping_sub(112 << 23);
    let normal = rebiased.wrapping_add(0xfff + (rebiased >> 13 & 1)) >> 13;
    // Subnormal results: adding 0.5 puts the f16 grid at the last digit of an f32, whose adder then rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let clamped = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    if magnitude > 0x7f80_0000 { CANONICAL_NAN_16 } else { sign | clamped }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(values: &[f32]) -> Lanes {
        let mut d = [0; 32];
        for (d, v) in d.iter_mut().zip(values) {
            *d = v.to_bits();
        }
        d
    }

    /// A stride through all f32 that meets every exponent and both signs, plus the neighbourhood of every f16 and bf16.
    fn f32_patterns() -> impl Iterator<Item = u32> {
        let grid = (0..1u32 << 16).flat_map(|h| (0..3u32).map(move |i| (h << 16).wrapping_add(0x7fff + i)));
        let halves = (0..1u32 << 16).flat_map(|h| {
            let bits = f16_to_f32(h);
            [
                bits,
                bits.wrapping_add(1),
                bits.wrapping_sub(1),
                bits.wrapping_add(0x1000),
                bits.wrapping_add(0xfff),
            ]
        });
        (0..=u32::MAX / 40_009).map(|i| i * 40_009).chain(grid).chain(halves)
    }

    #[test]
    fn the_fast_conversions_to_16_bits_are_the_general_one() {
        for x in f32_patterns() {
            let value = f32::from_bits(x) as f64;
            assert_eq!(
                f32_to_bf16(x),
                Format::BF16.narrow(value, Round::Nearest, false),
                "bf16 of {x:#010x}"
            );
            assert_eq!(f32_to_f16(x), Format::F16.narrow(value, Round::Nearest, false), "f16 of {x:#010x}");
        }
    }

    #[test]
    fn widening_f16_is_exact() {
        for x in 0..1u32 << 16 {
            let value = Format::F16.value(x);
            let expected = if value.is_nan() { CANONICAL_NAN_F32 } else { (value as f32).to_bits() };
            assert_eq!(f16_to_f32(x), expected, "{x:#x}");
        }
    }

    #[test]
    fn modifiers_of_narrowing() {
        let a = lanes(&[-1.5, -0.0, 1e30, f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 1e-40]);
        let relu = f16_from_f32(&a, Narrow { relu: true, ..Narrow::default() });
        assert_eq!(relu[..6], [0, 0, 0x7c00, 0x7c00, 0x7fff, 0]);
        let finite = f16_from_f32(&a, Narrow { satfinite: true, ..Narrow::default() });
        assert_eq!(finite[..6], [0xbe00, 0x8000, 0x7bff, 0x7bff, 0x7fff, 0xfbff]);
        let toward_zero =
            bf16_from_f32(&lanes(&[1.999, -1.999]), Narrow { round: Round::Zero, ..Narrow::default() });
        assert_eq!(toward_zero[..2], [0x3fff, 0xbfff]);
        let kept = bf16_from_f32(&a, Narrow { round: Round::Zero, ..Narrow::default() });
        let flushed = bf16_from_f32(&a, Narrow { round: Round::Zero, ftz: true, ..Narrow::default() });
        assert_eq!((kept[6], flushed[6]), (1, 0));
    }

    #[test]
    fn the_first_operand_of_a_pack_is_the_upper_half() {
        let (high, low) = (lanes(&[1.0]), lanes(&[2.0]));
        assert_eq!(bf16x2_from_f32(&high, &low, Narrow::default())[0], 0x3f80_4000);
        assert_eq!(f16x2_from_f32(&high, &low, Narrow::default())[0], 0x3c00_4000);
        assert_eq!(fp8x2_from_f32(&high, &low, Format::E4M3, false)[0], 0x3840);
        assert_eq!(f16x2_from_fp8x2(&[0x3840; 32], Format::E4M3, false)[0], 0x3c00_4000);
        assert_eq!(f16x2_from_fp8x2(&[0xb840; 32], Format::E4M3, true)[0], 0x0000_4000);
    }

    #[test]
    fn floats_to_integers_saturate() {
        let a = lanes(&[2.5, -2.5, 3.5, 1e20, -1e20, f32::NAN, f32::INFINITY, -0.25]);
        let mode = |round| Integral { round, ftz: false };
        let s = |round| s32_from_f32(&a, mode(round)).map(|x| x as i32);
        assert_eq!(s(Round::Nearest)[..8], [2, -2, 4, i32::MAX, i32::MIN, 0, i32::MAX, 0]);
        assert_eq!(s(Round::Zero)[..3], [2, -2, 3]);
        assert_eq!(s(Round::Down)[..8], [2, -3, 3, i32::MAX, i32::MIN, 0, i32::MAX, -1]);
        assert_eq!(s(Round::Up)[..3], [3, -2, 4]);
        assert_eq!(u32_from_f32(&a, mode(Round::Zero))[..6], [2, 0, 3, u32::MAX, 0, 0]);

        let wide =
            |bits, signed| integer_from_float(&a, Format::F32, Integer { bits, signed }, mode(Round::Zero));
        assert_eq!(wide(8, true)[3..6], [127, -128i64 as u64, 0]);
        assert_eq!(wide(16, false)[3..6], [65535, 0, 0]);
        assert_eq!(wide(64, true)[3..6], [i64::MAX as u64, i64::MIN as u64, 1 << 63]);
        assert_eq!(wide(64, false)[4..6], [0, 1 << 63]);
    }

    #[test]
    fn integral_keeps_the_sign_of_zero_and_canonicalises_nan() {
        let a = lanes(&[-0.25, f32::NAN, 1e-40]);
        let d = integral_f32(&a, Integral::default());
        assert_eq!(d[..2], [0x8000_0000, CANONICAL_NAN_F32]);
        let up = |ftz| integral_f32(&a, Integral { round: Round::Up, ftz })[2];
        assert_eq!((up(false), up(true)), (1f32.to_bits(), 0));
    }

    #[test]
    fn integers_to_floats_round_once() {
        // A tie of f32 spoilt by a last bit that f64 cannot hold either.
        let big = (1u64 << 63) + (1 << 39) + 1;
        let of = |round| {
            float_from_integer(&[big; 32], Integer { bits: 64, signed: false }, Format::F32, round)[0]
        };
        assert_eq!(of(Round::Nearest), 0x5f00_0001);
        assert_eq!(of(Round::Zero), 0x5f00_0000);
        let mut state = 3u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let x = state >> (state >> 58);
            let unsigned = Integer { bits: 64, signed: false };
            let signed = Integer { bits: 64, signed: true };
            let nearest = |integer| float_from_integer(&[x; 32], integer, Format::F32, Round::Nearest)[0];
            assert_eq!(nearest(unsigned), (x as f32).to_bits());
            assert_eq!(nearest(signed), (x as i64 as f32).to_bits());
            assert_eq!(f32_from_s32(&[x as u32; 32], Round::Nearest)[0], (x as i32 as f32).to_bits());
        }
        assert_eq!(f32_from_u32(&[0x0100_0001; 32], Round::Up)[0], 16_777_218f32.to_bits());
        assert_eq!(f32_from_s32(&[-0x0100_0001i32 as u32; 32], Round::Down)[0], (-16_777_218f32).to_bits());
        let half = float_from_integer(
            &[100_000; 32],
            Integer { bits: 32, signed: true },
            Format::F16,
            Round::Nearest,
        );
        assert_eq!(half[0], 0x7c00);
    }
}
