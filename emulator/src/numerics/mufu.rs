//! The approximate functions: `ex2 lg2 rcp rsqrt sqrt sin cos tanh .approx`, `div.approx` and `div.full`.
//!
//! The special-function unit is a table with quadratic interpolation whose contents are not public. These functions
//! follow the documented special cases and are within 0.51 units of the true value elsewhere, so that a device lies
//! within its documented error, rounded up, of them; [`Function::class`] is that distance. Everything is evaluated in f64
//! with separate multiplications and additions: the bits are the same on every host.
//!
//! The classes are derived from documentation. A capture on a device may tighten them.

use super::class::Class;
use super::convert::flush;
use super::{CANONICAL_NAN_F32, Format, Lanes, Round, half, map1, map2};

/// An approximate function of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `2^x`.
    Ex2,
    /// The logarithm to base 2.
    Lg2,
    /// `1 / x`.
    Rcp,
    /// `1 / sqrt(x)`.
    Rsqrt,
    /// The square root.
    Sqrt,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
}

impl Function {
    /// Distance to a device's f32 result: the documented error of the device and our half unit.
    pub const fn class(self) -> Class {
        match self {
            Self::Rcp => Class::Ulp(1),
            Self::Ex2 | Self::Rsqrt | Self::Sqrt => Class::Ulp(2),
            // 2^-22.6 absolute where the result is below one, relative above.
            Self::Lg2 => Class::Within { absolute: 1.6e-7, relative: 2.2e-7 },
            // 2^-20.5, promised between −2π and 2π only.
            Self::Sin | Self::Cos => Class::Within { absolute: 6.8e-7, relative: 0.0 },
            // 2^-11 relative.
            Self::Tanh => Class::Within { absolute: 0.0, relative: 4.9e-4 },
        }
    }
}

/// `<function>.approx(.ftz).f32`. With `ftz`, subnormal inputs and results are zeros of their sign. `tanh` has no such
/// modifier and takes `false`.
#[inline(always)]
pub fn approx_f32(function: Function, a: &Lanes, ftz: bool) -> Lanes {
    let flushed = if ftz { map1(a, flush) } else { *a };
    let d = match function {
        Function::Ex2 => unary(&flushed, |x| ex2(x as f64) as f32),
        Function::Lg2 => unary(&flushed, |x| lg2(x as f64) as f32),
        Function::Rcp => unary(&flushed, |x| 1.0 / x),
        Function::Rsqrt => unary(&flushed, rsqrt),
        Function::Sqrt => unary(&flushed, f32::sqrt),
        Function::Sin => unary(&flushed, |x| sin_turns(x as f64 * (0.5 / std::f64::consts::PI), x)),
        Function::Cos => unary(&flushed, cos),
        Function::Tanh => unary(&flushed, |x| tanh(x as f64) as f32),
    };
    if ftz { map1(&d, flush) } else { d }
}

/// `ex2.approx` and `tanh.approx` on pairs of f16 or bf16: the f32 function, rounded to the format.
pub fn approx_x2(function: Function, format: Format, a: &Lanes, ftz: bool) -> Lanes {
    let flush16 = |x: u32| if ftz && x & 0x7fff < 1 << format.fraction_bits { x & 0x8000 } else { x };
    half::pairs1(a, |x| {
        let value = format.value(flush16(x));
        let result = match function {
            Function::Ex2 => ex2(value),
            Function::Tanh => tanh(value),
            // No other function has a 16-bit form; these serve the same purpose through f32.
            other => f32::from_bits(approx_f32(other, &[(value as f32).to_bits(); 32], false)[0]) as f64,
        };
        flush16(format.narrow(result, Round::Nearest, false))
    })
}

/// `div.full(.ftz).f32`: within 2 ulp over the full range.
pub fn div_full_f32(a: &Lanes, b: &Lanes, ftz: bool) -> Lanes {
    div(a, b, ftz, |x, y| x / y)
}

/// `div.approx(.ftz).f32`: within 2 ulp for `|b|` from 2^-126 to 2^126; above, the reciprocal has vanished.
pub fn div_approx_f32(a: &Lanes, b: &Lanes, ftz: bool) -> Lanes {
    div(a, b, ftz, |x, y| if y.is_finite() && y.abs() > POWER_126 { x * 0f32.copysign(y) } else { x / y })
}

const POWER_126: f32 = f32::from_bits((126 + 127) << 23);

fn div(a: &Lanes, b: &Lanes, ftz: bool, f: impl Fn(f32, f32) -> f32) -> Lanes {
    let input = |x: u32| f32::from_bits(if ftz { flush(x) } else { x });
    let d = map2(a, b, |x, y| canonical(f(input(x), input(y))));
    if ftz { map1(&d, flush) } else { d }
}

#[inline(always)]
fn canonical(x: f32) -> u32 {
    if x.is_nan() { CANONICAL_NAN_F32 } else { x.to_bits() }
}

#[inline(always)]
fn unary(a: &Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    map1(a, |x| canonical(f(f32::from_bits(x))))
}

/// The sum `c[0] + c[1] x + …`.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: [f64; N]) -> f64 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + c[i];
    }
    sum
}

/// 1.5 · 2^52: adding it leaves the nearest integer in the low bits of the sum.
const TO_INTEGER: f64 = 6_755_399_441_055_744.0;

/// Powers of ln 2 over factorials.
const EX2_SERIES: [f64; 11] = [
    1.0,
    std::f64::consts::LN_2,
    0.240_226_506_959_100_7,
    0.055_504_108_664_821_58,
    0.009_618_129_107_628_477,
    0.001_333_355_814_642_844_3,
    0.000_154_035_303_933_816_1,
    0.000_015_252_733_804_059_84,
    0.000_001_321_548_679_014_431,
    0.000_000_101_780_860_092_396_98,
    0.000_000_007_054_911_620_801_121,
];

/// 2^x to 31 bits, for any x: beyond the range of f32 a value that rounds to infinity or zero.
#[inline(always)]
fn ex2(x: f64) -> f64 {
    ex2_of_terms::<9>(x)
}

/// 2^x from so many terms: 9 leave a remainder below 2^-31, 11 one below 2^-43.
#[inline(always)]
fn ex2_of_terms<const TERMS: usize>(x: f64) -> f64 {
    // Not `clamp`: a NaN has to pass.
    let x = if x > 300.0 { 300.0 } else { x };
    let x = if x < -300.0 { -300.0 } else { x };
    let shifted = x + TO_INTEGER;
    let fraction = x - (shifted - TO_INTEGER);
    let series: [f64; TERMS] = std::array::from_fn(|i| EX2_SERIES[i]);
    polynomial(fraction, series) * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

/// The logarithm to base 2 with the special cases of the instruction.
#[inline(always)]
fn lg2(x: f64) -> f64 {
    // Every positive f32 is a normal f64. Splitting at sqrt(1/2) keeps the logarithm of the mantissa near zero.
    let offset = x.to_bits().wrapping_sub(0x3fe6_a09e_667f_3bcd);
    let exponent = (offset as i64 >> 52) as i32 as f64;
    let mantissa = f64::from_bits((offset & ((1 << 52) - 1)).wrapping_add(0x3fe6_a09e_667f_3bcd));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = polynomial(
        s * s,
        [1.0, 1.0 / 3.0, 1.0 / 5.0, 1.0 / 7.0, 1.0 / 9.0, 1.0 / 11.0, 1.0 / 13.0, 1.0 / 15.0],
    );
    let value = exponent + s * series * (2.0 * std::f64::consts::LOG2_E);
    let value = if x == f64::INFINITY { x } else { value };
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    if x < 0.0 || x.is_nan() { f64::NAN } else { value }
}

#[inline(always)]
fn rsqrt(x: f32) -> f32 {
    // 1 / sqrt(-0) is -inf in IEEE arithmetic as in the instruction's table.
    (1.0 / (x as f64).sqrt()) as f32
}

/// The sine of `turns` full turns; `x` is the operand, returned where it is zero for its sign.
#[inline(always)]
fn sin_turns(turns: f64, x: f32) -> f32 {
    let fraction = turns - (turns + TO_INTEGER - TO_INTEGER);
    // Operands of 2^52 turns and more carry no phase; the unit's result is unspecified there.
    let fraction = if turns.abs() < 4e15 { fraction } else { turns * 0.0 };
    let reflected = if fraction.abs() > 0.25 { 0.5f64.copysign(fraction) - fraction } else { fraction };
    let angle = reflected * (2.0 * std::f64::consts::PI);
    let series = polynomial(
        angle * angle,
        [
            1.0,
            -1.0 / 6.0,
            1.0 / 120.0,
            -1.0 / 5_040.0,
            1.0 / 362_880.0,
            -1.0 / 39_916_800.0,
            1.0 / 6_227_020_800.0,
            -1.0 / 1_307_674_368_000.0,
        ],
    );
    let value = (angle * series) as f32;
    if x == 0.0 { x } else { value }
}

#[inline(always)]
fn cos(x: f32) -> f32 {
    let turns = x as f64 * (0.5 / std::f64::consts::PI);
    let fraction = turns - (turns + TO_INTEGER - TO_INTEGER);
    let fraction = if turns.abs() < 4e15 { fraction } else { turns * 0.0 };
    sin_turns(fraction + 0.25, 1.0)
}

#[inline(always)]
fn tanh(x: f64) -> f64 {
    let magnitude = x.abs();
    // The difference loses up to twelve bits, hence the longer series.
    let far = 1.0 - 2.0 / (ex2_of_terms::<11>(magnitude * (2.0 * std::f64::consts::LOG2_E)) + 1.0);
    // Near zero the difference cancels; the series needs two terms there.
    let near = magnitude - magnitude * magnitude * magnitude / 3.0;
    let value = if magnitude < 1.0 / 4096.0 { near } else { far };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(function: Function, x: f32, ftz: bool) -> f32 {
        f32::from_bits(approx_f32(function, &[x.to_bits(); 32], ftz)[0])
    }

    /// Every 9973rd f32 and the neighbourhood of one.
    fn operands() -> impl Iterator<Item = f32> {
        (0..u32::MAX / 9_973).map(|i| i * 9_973).chain(0x3f7f_0000..0x3f81_0000).map(f32::from_bits)
    }

    fn worst_ulp(function: Function, truth: impl Fn(f64) -> f64) -> f64 {
        let mut worst: f64 = 0.0;
        for x in operands() {
            let (got, expected) = (one_fast(function, x), truth(x as f64));
            let rounded = expected as f32;
            if !rounded.is_finite() || rounded == 0.0 {
                assert!(
                    got == rounded || (got.is_nan() && rounded.is_nan()),
                    "{function:?}({x:e}) = {got:e}"
                );
                continue;
            }
            let magnitude = rounded.abs().max(f32::MIN_POSITIVE);
            let unit = f32::from_bits(magnitude.to_bits() + 1) as f64 - magnitude as f64;
            worst = worst.max((got as f64 - expected).abs() / unit);
        }
        worst
    }

    fn one_fast(function: Function, x: f32) -> f32 {
        match function {
            Function::Ex2 => ex2(x as f64) as f32,
            Function::Lg2 => lg2(x as f64) as f32,
            Function::Tanh => tanh(x as f64) as f32,
            Function::Rsqrt => rsqrt(x),
            other => one(other, x, false),
        }
    }

    #[test]
    fn results_are_within_half_a_unit_of_the_truth() {
        let slack = 0.5001;
        assert!(worst_ulp(Function::Ex2, f64::exp2) <= 0.51);
        assert!(worst_ulp(Function::Lg2, f64::log2) <= slack);
        assert!(worst_ulp(Function::Rsqrt, |x| 1.0 / x.sqrt()) <= slack);
        assert!(worst_ulp(Function::Tanh, f64::tanh) <= slack);
    }

    #[test]
    fn sine_and_cosine_follow_the_host() {
        for i in -20_000..20_000 {
            let x = i as f32 * 0.001;
            let (sin, cos) = (one_fast(Function::Sin, x), cos(x));
            assert!((sin as f64 - (x as f64).sin()).abs() < 1e-7, "sin {x} = {sin}");
            assert!((cos as f64 - (x as f64).cos()).abs() < 1e-7, "cos {x} = {cos}");
        }
        for x in [1e10f32, -3e38] {
            assert!(one(Function::Sin, x, false).abs() <= 1.0 && one(Function::Cos, x, false).abs() <= 1.0);
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        for n in -149..128 {
            assert_eq!(one(Function::Ex2, n as f32, false) as f64, 2f64.powi(n));
            if n >= -126 {
                assert_eq!(one(Function::Lg2, 2f64.powi(n) as f32, false), n as f32);
            }
        }
    }

    /// The tables of the PTX ISA: operand, result without and with `.ftz`.
    #[test]
    fn special_cases() {
        const INF: f32 = f32::INFINITY;
        const NAN: f32 = f32::NAN;
        const SUB: f32 = 1e-40;
        let table: &[(Function, f32, f32, f32)] = &[
            (Function::Ex2, -INF, 0.0, 0.0),
            (Function::Ex2, -0.0, 1.0, 1.0),
            (Function::Ex2, INF, INF, INF),
            (Function::Ex2, -SUB, 1.0, 1.0),
            (Function::Ex2, -127.0, 5.877_472e-39, 0.0),
            (Function::Lg2, -INF, NAN, NAN),
            (Function::Lg2, -1.0, NAN, NAN),
            (Function::Lg2, -SUB, NAN, -INF),
            (Function::Lg2, -0.0, -INF, -INF),
            (Function::Lg2, 0.0, -INF, -INF),
            (Function::Lg2, INF, INF, INF),
            (Function::Rcp, -INF, -0.0, -0.0),
            (Function::Rcp, -SUB, -INF, -INF),
            (Function::Rcp, -0.0, -INF, -INF),
            (Function::Rcp, 0.0, INF, INF),
            (Function::Rcp, INF, 0.0, 0.0),
            (Function::Rcp, -3e38, -1.0 / 3e38, -0.0),
            (Function::Rsqrt, -INF, NAN, NAN),
            (Function::Rsqrt, -SUB, NAN, -INF),
            (Function::Rsqrt, -0.0, -INF, -INF),
            (Function::Rsqrt, 0.0, INF, INF),
            (Function::Rsqrt, INF, 0.0, 0.0),
            (Function::Sqrt, -INF, NAN, NAN),
            (Function::Sqrt, -SUB, NAN, -0.0),
            (Function::Sqrt, -0.0, -0.0, -0.0),
            (Function::Sqrt, INF, INF, INF),
            (Function::Sin, -0.0, -0.0, -0.0),
            (Function::Sin, -SUB, -SUB, -0.0),
            (Function::Sin, INF, NAN, NAN),
            (Function::Cos, -0.0, 1.0, 1.0),
            (Function::Cos, -INF, NAN, NAN),
            (Function::Tanh, -INF, -1.0, -1.0),
            (Function::Tanh, INF, 1.0, 1.0),
            (Function::Tanh, -0.0, -0.0, -0.0),
        ];
        for &(function, x, plain, ftz) in table {
            for (expected, flag) in [(plain, false), (ftz, true)] {
                let got = one(function, x, flag).to_bits();
                let expected = if expected.is_nan() { CANONICAL_NAN_F32 } else { expected.to_bits() };
                assert_eq!(got, expected, "{function:?}({x:e}), ftz {flag}: {got:#010x}");
            }
            assert_eq!(one(function, f32::from_bits(0xffc0_1234), false).to_bits(), CANONICAL_NAN_F32);
        }
        assert_eq!(one(Function::Tanh, SUB, false), SUB);
    }

    #[test]
    fn pairs_of_16_bits() {
        let d = approx_x2(Function::Ex2, Format::F16, &[0x4000_bc00; 32], false)[0];
        assert_eq!(d, 0x4400_3800);
        let d = approx_x2(Function::Tanh, Format::BF16, &[0xff80_0000; 32], false)[0];
        assert_eq!(d, 0xbf80_0000);
        assert_eq!(
            approx_x2(Function::Ex2, Format::F16, &[0xcbc0; 32], true)[0] & 0xffff,
            0,
            "2^-15.5 is subnormal"
        );
        assert_eq!(approx_x2(Function::Ex2, Format::F16, &[0x7e01; 32], false)[0] & 0xffff, 0x7fff);
    }

    #[test]
    fn divisions() {
        let of = |f: fn(&Lanes, &Lanes, bool) -> Lanes, x: f32, y: f32, ftz| {
            f32::from_bits(f(&[x.to_bits(); 32], &[y.to_bits(); 32], ftz)[0])
        };
        assert_eq!(of(div_full_f32, 1.0, 3.0, false), 1.0 / 3.0);
        assert_eq!(of(div_full_f32, 3e38, 3e38, false), 1.0);
        assert_eq!(of(div_approx_f32, 3e38, 3e38, false), 0.0);
        assert_eq!(of(div_approx_f32, -3e38, 3e38, false).to_bits(), 0x8000_0000);
        assert!(of(div_approx_f32, f32::INFINITY, 3e38, false).is_nan());
        assert_eq!(of(div_approx_f32, 1.0, 1e-40, true), f32::INFINITY);
        assert_eq!(of(div_approx_f32, 6.0, 2.0, true), 3.0);
    }
}
