//! Floating point, conversions and comparisons, on the arithmetic of [`crate::numerics`].

use super::registers::{Registers, map, test, test2, zip};
use crate::ir::{Cmp, CmpType, Compare, Convert, ConvertPair, Float1, Float2, Half, HalfOp, Logic, Reg};
use crate::numerics::{Format, Lanes, WideLanes, convert, half, mufu, scalar};

/// f32 of two operands.
#[inline(always)]
pub fn float2(op: Float2, a: &Lanes, b: &Lanes) -> Lanes {
    match op {
        Float2::Add(mode) => scalar::add_f32(a, b, mode),
        Float2::Sub(mode) => scalar::sub_f32(a, b, mode),
        Float2::Mul(mode) => scalar::mul_f32(a, b, mode),
        Float2::Min { ftz, nan } => scalar::min_f32(a, b, ftz, nan),
        Float2::Max { ftz, nan } => scalar::max_f32(a, b, ftz, nan),
        Float2::Div(mode) => scalar::div_f32(a, b, mode),
        Float2::DivApprox { ftz } => mufu::div_approx_f32(a, b, ftz),
        Float2::DivFull { ftz } => mufu::div_full_f32(a, b, ftz),
        Float2::CopySign => zip(a, b, |sign, x| sign & 0x8000_0000 | x & 0x7fff_ffff),
    }
}

/// f32 of one operand.
#[inline(always)]
pub fn float1(op: Float1, a: &Lanes) -> Lanes {
    match op {
        Float1::Neg { ftz } => scalar::neg_f32(a, ftz),
        Float1::Abs { ftz } => scalar::abs_f32(a, ftz),
        Float1::Rcp(mode) => scalar::rcp_f32(a, mode),
        Float1::Sqrt(mode) => scalar::sqrt_f32(a, mode),
        Float1::Mufu { function, ftz } => mufu::approx_f32(function, a, ftz),
    }
}

/// 16-bit arithmetic.
pub fn half<const C: bool>(r: &mut Registers, m: u32, half: &Half, d: Reg, [a, b, c]: [Reg; 3]) {
    let Half { op, format, packed, mode } = *half;
    let (x, y) = (r.get32(a), r.get32(b));
    let value = match op {
        HalfOp::Add => half::add(format, x, y, mode),
        HalfOp::Sub => half::sub(format, x, y, mode),
        HalfOp::Mul => half::mul(format, x, y, mode),
        HalfOp::Fma => half::fma(format, x, y, r.get32(c), mode),
        HalfOp::Min { nan } => half::min(format, x, y, mode.ftz, nan),
        HalfOp::Max { nan } => half::max(format, x, y, mode.ftz, nan),
        HalfOp::Neg => half::neg(format, x, mode.ftz),
        HalfOp::Abs => half::abs(format, x, mode.ftz),
        HalfOp::Mufu(function) => mufu::approx_x2(function, format, x, mode.ftz),
    };
    // A single value lies in the low half, and the high half stays zero.
    let value = if packed { value } else { value.map(|x| x & 0xffff) };
    let mut defined = r.defined32(a);
    if !matches!(op, HalfOp::Neg | HalfOp::Abs | HalfOp::Mufu(_)) {
        defined &= r.defined32(b);
    }
    if op == HalfOp::Fma {
        defined &= r.defined32(c);
    }
    r.set32::<C>(d, value, m, defined);
}

/// Two f32 into one register.
#[inline(always)]
pub fn convert_pair(op: &ConvertPair, high: &Lanes, low: &Lanes) -> Lanes {
    match *op {
        ConvertPair::Bf16x2(mode) => convert::bf16x2_from_f32(high, low, mode),
        ConvertPair::F16x2(mode) => convert::f16x2_from_f32(high, low, mode),
        ConvertPair::Fp8x2 { format, relu } => convert::fp8x2_from_f32(high, low, format, relu),
    }
}

/// `cvt` of one operand; `wide` says which of destination and source are in the 64-bit file.
#[inline(always)]
pub fn convert<const C: bool>(r: &mut Registers, m: u32, op: &Convert, d: Reg, a: Reg, wide: [bool; 2]) {
    let signed32 = convert::Integer { bits: 32, signed: true };
    let unsigned32 = convert::Integer { bits: 32, signed: false };
    let value = match *op {
        Convert::Int { from, to, saturate: false, .. } if wide == [false, true] && to.bits == 32 => {
            let _ = from;
            map(r.get64(a), |x| x as u32)
        }
        Convert::Int { from, saturate: false, keep: 64, .. } if wide == [true, false] && from.bits == 32 => {
            let value: WideLanes =
                if from.signed { map(r.get32(a), |x| x as i32 as u64) } else { map(r.get32(a), u64::from) };
            let defined = r.defined32(a);
            return r.set64::<C>(d, value, m, defined);
        }
        Convert::Int { .. } | Convert::ToInt { keep: 64, .. } => {
            return convert_general::<C>(r, m, op, d, a, wide);
        }
        Convert::ToInt { from: Format::F32, to, mode, .. } if to == signed32 => {
            convert::s32_from_f32(r.get32(a), mode)
        }
        Convert::ToInt { from: Format::F32, to, mode, .. } if to == unsigned32 => {
            convert::u32_from_f32(r.get32(a), mode)
        }
        Convert::FromInt { from, to: Format::F32, round } if from == signed32 && !wide[1] => {
            convert::f32_from_s32(r.get32(a), round)
        }
        Convert::FromInt { from, to: Format::F32, round } if from == unsigned32 && !wide[1] => {
            convert::f32_from_u32(r.get32(a), round)
        }
        Convert::ToInt { .. } | Convert::FromInt { .. } => return convert_general::<C>(r, m, op, d, a, wide),
        Convert::Integral(mode) => convert::integral_f32(r.get32(a), mode),
        Convert::F32 { ftz, saturate } => {
            let mode = scalar::Mode { ftz, saturate, ..scalar::Mode::default() };
            // Adding −0 changes nothing but what the modifiers change.
            scalar::add_f32(r.get32(a), &[0x8000_0000; 32], mode)
        }
        Convert::Bf16FromF32(mode) => convert::bf16_from_f32(r.get32(a), mode),
        Convert::F16FromF32(mode) => convert::f16_from_f32(r.get32(a), mode),
        Convert::F32FromBf16 => convert::f32_from_bf16(r.get32(a)),
        // Every f16 is a normal f32, so that there is nothing to flush.
        Convert::F32FromF16 { .. } => convert::f32_from_f16(r.get32(a)),
        Convert::F16x2FromFp8x2 { format, relu } => convert::f16x2_from_fp8x2(r.get32(a), format, relu),
    };
    let defined = r.defined(a, wide[1]);
    r.set32::<C>(d, value, m, defined);
}

/// Conversions between integers of any width, and between those and floats.
fn convert_general<const C: bool>(r: &mut Registers, m: u32, op: &Convert, d: Reg, a: Reg, wide: [bool; 2]) {
    let source: WideLanes = if wide[1] { *r.get64(a) } else { map(r.get32(a), u64::from) };
    let extend = |x: u64, to: convert::Integer| {
        let shift = 64 - to.bits;
        if to.signed { (((x << shift) as i64) >> shift) as u64 } else { x << shift >> shift }
    };
    let (value, keep): (WideLanes, u32) = match *op {
        Convert::Int { from, to, saturate, keep } => (
            map(&source, |x| {
                let x = extend(x, from);
                let x = if saturate { clamp(x, from.signed, to) } else { x };
                extend(x, to)
            }),
            keep,
        ),
        Convert::ToInt { from, to, mode, keep } => {
            (convert::integer_from_float(r.get32(a), from, to, mode), keep)
        }
        Convert::FromInt { from, to, round } => {
            (map(&convert::float_from_integer(&source, from, to, round), u64::from), 32)
        }
        _ => (source, 64),
    };
    let defined = r.defined(a, wide[1]);
    if wide[0] {
        r.set64::<C>(d, value, m, defined);
    } else {
        let mask = u32::MAX >> (32 - keep);
        r.set32::<C>(d, map(&value, |x| x as u32 & mask), m, defined);
    }
}

/// The nearest value of an integer type to `x`, which is extended to 64 bits.
fn clamp(x: u64, signed: bool, to: convert::Integer) -> u64 {
    let value = if signed { i128::from(x as i64) } else { i128::from(x) };
    let (low, high) = match to.signed {
        true => (-(1i128 << (to.bits - 1)), (1i128 << (to.bits - 1)) - 1),
        false => (0, (1i128 << to.bits) - 1),
    };
    value.clamp(low, high) as u64
}

/// Lanes in which a comparison holds, and lanes in which both operands have a value.
#[inline(always)]
pub fn compare(r: &Registers, compare: &Compare) -> (u32, u32) {
    let Compare { cmp, ty, a, b, .. } = *compare;
    let narrow = |f: fn(u32) -> f32| ordered(cmp, &r.get32(a).map(f), &r.get32(b).map(f));
    let held = match ty {
        CmpType::U32 | CmpType::U16 => integers(cmp, r.get32(a), r.get32(b)),
        CmpType::S32 => integers(cmp, &map(r.get32(a), |x| x as i32), &map(r.get32(b), |x| x as i32)),
        CmpType::S16 => integers(cmp, &r.get32(a).map(|x| x as i16), &r.get32(b).map(|x| x as i16)),
        CmpType::U64 => integers(cmp, r.get64(a), r.get64(b)),
        CmpType::S64 => integers(cmp, &map(r.get64(a), |x| x as i64), &map(r.get64(b), |x| x as i64)),
        CmpType::F32 { ftz: false } => {
            ordered(cmp, &map(r.get32(a), f32::from_bits), &map(r.get32(b), f32::from_bits))
        }
        CmpType::F32 { ftz: true } => narrow(|x| f32::from_bits(convert::flush(x))),
        CmpType::F16 => narrow(|x| Format::F16.value(x) as f32),
        CmpType::Bf16 => narrow(|x| f32::from_bits(x << 16)),
    };
    let wide = matches!(ty, CmpType::U64 | CmpType::S64);
    (held, r.defined(a, wide) & r.defined(b, wide))
}

#[inline(always)]
fn integers<T: Copy + Ord>(cmp: Cmp, a: &[T; 32], b: &[T; 32]) -> u32 {
    match cmp {
        Cmp::Eq => test2(a, b, |x, y| x == y),
        Cmp::Ne => test2(a, b, |x, y| x != y),
        Cmp::Lt => test2(a, b, |x, y| x < y),
        Cmp::Le => test2(a, b, |x, y| x <= y),
        Cmp::Gt => test2(a, b, |x, y| x > y),
        _ => test2(a, b, |x, y| x >= y),
    }
}

#[inline(always)]
fn ordered(cmp: Cmp, a: &[f32; 32], b: &[f32; 32]) -> u32 {
    let unordered = || test2(a, b, |x, y| x.is_nan() | y.is_nan());
    match cmp {
        Cmp::Eq => test2(a, b, |x, y| x == y),
        Cmp::Ne => test2(a, b, |x, y| (x < y) | (x > y)),
        Cmp::Lt => test2(a, b, |x, y| x < y),
        Cmp::Le => test2(a, b, |x, y| x <= y),
        Cmp::Gt => test2(a, b, |x, y| x > y),
        Cmp::Ge => test2(a, b, |x, y| x >= y),
        Cmp::Equ => test2(a, b, |x, y| x == y) | unordered(),
        Cmp::Neu => test2(a, b, |x, y| x != y),
        Cmp::Ltu => test2(a, b, |x, y| x < y) | unordered(),
        Cmp::Leu => test2(a, b, |x, y| x <= y) | unordered(),
        Cmp::Gtu => test2(a, b, |x, y| x > y) | unordered(),
        Cmp::Geu => test2(a, b, |x, y| x >= y) | unordered(),
        Cmp::Num => !unordered(),
        Cmp::Nan => unordered(),
    }
}

/// `setp` and `set`: the combined result, the one with the opposite comparison, and the lanes with a value.
#[inline(always)]
pub fn compare_and_combine(r: &Registers, c: &Compare) -> (u32, u32, u32) {
    let (held, defined) = compare(r, c);
    let other = r.pred(c.c) ^ if c.c_negated { u32::MAX } else { 0 };
    let combine = |x: u32| match c.logic {
        Logic::And => x & other,
        Logic::Or => x | other,
        Logic::Xor => x ^ other,
    };
    (combine(held), combine(!held), defined & r.defined_pred(c.c))
}

/// Lanes that hold an f32 NaN.
#[inline(always)]
pub fn nans(a: &Lanes) -> u32 {
    test(a, |x| x & 0x7fff_ffff > 0x7f80_0000)
}

/// Whether any lane holds an f32 NaN: a maximum stays in vectors where bits of lanes do not.
#[inline(always)]
pub fn has_nan(a: &Lanes) -> bool {
    a.iter().fold(0, |most: u32, &x| most.max(x & 0x7fff_ffff)) > 0x7f80_0000
}
