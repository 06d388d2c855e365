//! f16x2 and bf16x2 arithmetic: `add sub mul fma min max neg abs`.
//!
//! Two numbers per register, low half first. The scalar forms (`.f16`, `.bf16`) are the same functions on registers whose
//! upper half is zero; their upper result half is zero too, but for [`neg`], which the caller cuts. Results are rounded
//! once, to nearest even; subnormal numbers are kept unless `ftz` is set (f16 only, as in PTX).

use super::convert::relu_bits;
use super::format::add_odd;
use super::{CANONICAL_NAN_16, Format, Lanes, Round, map1, map2, map3};

/// Modifiers of a 16-bit instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// `.ftz`: subnormal inputs and results become zero.
    pub ftz: bool,
    /// `.sat`: results are clamped to `[0, 1]`, NaN as +0.
    pub saturate: bool,
    /// `.relu`: negative results become +0.
    pub relu: bool,
}

/// `add.{f16x2,bf16x2}`.
pub fn add(format: Format, a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    pairs2(a, b, |x, y| finish(format, add_odd(input(format, x, mode), input(format, y, mode)), mode))
}

/// `sub.{f16x2,bf16x2}`.
pub fn sub(format: Format, a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    pairs2(a, b, |x, y| finish(format, add_odd(input(format, x, mode), -input(format, y, mode)), mode))
}

/// `mul.{f16x2,bf16x2}`.
pub fn mul(format: Format, a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    pairs2(a, b, |x, y| finish(format, input(format, x, mode) * input(format, y, mode), mode))
}

/// `fma.rn.{f16x2,bf16x2}`.
pub fn fma(format: Format, a: &Lanes, b: &Lanes, c: &Lanes, mode: Mode) -> Lanes {
    let one = |x, y, z| {
        // A product of two 16-bit numbers is exact in f64.
        finish(format, add_odd(input(format, x, mode) * input(format, y, mode), input(format, z, mode)), mode)
    };
    map3(a, b, c, |x, y, z| one(x >> 16, y >> 16, z >> 16) << 16 | one(x & 0xffff, y & 0xffff, z & 0xffff))
}

/// `max.{f16x2,bf16x2}`: the other operand where one is NaN (with `nan`, the canonical NaN), and −0 < +0.
pub fn max(format: Format, a: &Lanes, b: &Lanes, ftz: bool, nan: bool) -> Lanes {
    pairs2(a, b, |x, y| choose(format, x, y, ftz, nan, |x, y| x >= y))
}

/// `min.{f16x2,bf16x2}`, the mirror of [`max`].
pub fn min(format: Format, a: &Lanes, b: &Lanes, ftz: bool, nan: bool) -> Lanes {
    pairs2(a, b, |x, y| choose(format, x, y, ftz, nan, |x, y| x <= y))
}

/// `neg.{f16x2,bf16x2}`: NaN becomes canonical.
pub fn neg(format: Format, a: &Lanes, ftz: bool) -> Lanes {
    pairs1(a, |x| signed(format, x, x ^ 0x8000, ftz))
}

/// `abs.{f16x2,bf16x2}`: NaN becomes canonical.
pub fn abs(format: Format, a: &Lanes, ftz: bool) -> Lanes {
    pairs1(a, |x| signed(format, x, x & 0x7fff, ftz))
}

#[inline(always)]
pub(crate) fn pairs1(a: &Lanes, f: impl Fn(u32) -> u32) -> Lanes {
    map1(a, |x| f(x >> 16) << 16 | f(x & 0xffff))
}

#[inline(always)]
fn pairs2(a: &Lanes, b: &Lanes, f: impl Fn(u32, u32) -> u32) -> Lanes {
    map2(a, b, |x, y| f(x >> 16, y >> 16) << 16 | f(x & 0xffff, y & 0xffff))
}

fn flush(format: Format, x: u32) -> u32 {
    if x & 0x7fff < 1 << format.fraction_bits { x & 0x8000 } else { x }
}

fn is_nan(format: Format, x: u32) -> bool {
    x & 0x7fff > format.overflow
}

fn input(format: Format, x: u32, mode: Mode) -> f64 {
    format.value(if mode.ftz { flush(format, x) } else { x })
}

fn finish(format: Format, exact: f64, mode: Mode) -> u32 {
    let rounded = format.narrow(exact, Round::Nearest, false);
    let rounded = if mode.ftz { flush(format, rounded) } else { rounded };
    if mode.saturate {
        let value = format.value(rounded);
        return if value > 1.0 {
            format.narrow(1.0, Round::Nearest, false)
        } else if value > 0.0 {
            rounded
        } else {
            0
        };
    }
    relu_bits(rounded, 16, mode.relu)
}

fn choose(
    format: Format,
    x: u32,
    y: u32,
    ftz: bool,
    nan: bool,
    keeps_first: impl Fn(i32, i32) -> bool,
) -> u32 {
    let (x, y) = if ftz { (flush(format, x), flush(format, y)) } else { (x, y) };
    // The order of the numbers with −0 just below +0.
    let ordered = |x: u32| if x & 0x8000 != 0 { -1 - (x & 0x7fff) as i32 } else { x as i32 };
    match (is_nan(format, x), is_nan(format, y)) {
        (true, true) => CANONICAL_NAN_16,
        (true, false) | (false, true) if nan => CANONICAL_NAN_16,
        (true, false) => y,
        (false, true) => x,
        (false, false) => {
            if keeps_first(ordered(x), ordered(y)) {
                x
            } else {
                y
            }
        }
    }
}

fn signed(format: Format, x: u32, changed: u32, ftz: bool) -> u32 {
    if is_nan(format, x) {
        CANONICAL_NAN_16
    } else if ftz {
        flush(format, changed)
    } else {
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::convert::{f16_to_f32, f32_to_bf16, f32_to_f16};

    fn random(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 32) as u32
    }

    /// An exact sum of products in integers: f16 values are multiples of 2^-24, so products are of 2^-48.
    fn f16_fma_in_integers(x: u32, y: u32, z: u32) -> u32 {
        let fixed = |x: u32| {
            let (field, fraction) = (x >> 10 & 31, (x & 0x3ff) as i128);
            let magnitude = if field == 0 { fraction } else { (fraction | 0x400) << (field - 1) };
            if x & 0x8000 != 0 { -magnitude } else { magnitude }
        };
        let exact = fixed(x) * fixed(y) + (fixed(z) << 24);
        if exact == 0 {
            let product_negative = (x ^ y) & 0x8000 != 0;
            return if product_negative && z & 0x8000 != 0 { 0x8000 } else { 0 };
        }
        let (sign, magnitude) = (if exact < 0 { 0x8000 } else { 0 }, exact.unsigned_abs());
        // Nearest f16 by search over all magnitudes around the truncated one.
        let units = |bits: u32| (fixed(bits) as u128) << 24;
        let (mut low, mut high) = (0u32, 0x7c00);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if units(middle) <= magnitude { low = middle } else { high = middle }
        }
        let (below, above) = (magnitude - units(low), units(high).saturating_sub(magnitude));
        let up = below > above || (below == above && low & 1 != 0);
        sign | if up { high } else { low }
    }

    #[test]
    fn f16_fma_is_the_exact_one() {
        let mut state = 5;
        for _ in 0..100_000 {
            let mut finite = || {
                let x = random(&mut state) & 0xffff;
                if x & 0x7c00 == 0x7c00 { x & 0xbfff } else { x }
            };
            let (x, y, z) = (finite(), finite(), finite());
            let d = fma(Format::F16, &[x; 32], &[y; 32], &[z; 32], Mode::default())[0];
            assert_eq!(d, f16_fma_in_integers(x, y, z), "{x:#x} * {y:#x} + {z:#x}");
        }
    }

    #[test]
    fn sums_and_products_agree_with_f32_where_that_rounds_once() {
        let mut state = 6;
        for _ in 0..100_000 {
            let (a, b) = (random(&mut state), random(&mut state));
            let (d, p) = (
                add(Format::F16, &[a; 32], &[b; 32], Mode::default())[0],
                mul(Format::F16, &[a; 32], &[b; 32], Mode::default())[0],
            );
            let e = sub(Format::BF16, &[a; 32], &[b; 32], Mode::default())[0];
            for half in [0, 16] {
                let (x, y) = (a >> half & 0xffff, b >> half & 0xffff);
                let (u, v) = (f32::from_bits(f16_to_f32(x)), f32::from_bits(f16_to_f32(y)));
                assert_eq!(d >> half & 0xffff, f32_to_f16((u + v).to_bits()), "{x:#x} + {y:#x}");
                assert_eq!(p >> half & 0xffff, f32_to_f16((u * v).to_bits()), "{x:#x} * {y:#x}");
                let difference = f32::from_bits(x << 16) - f32::from_bits(y << 16);
                assert_eq!(e >> half & 0xffff, f32_to_bf16(difference.to_bits()), "{x:#x} - {y:#x}");
            }
        }
    }

    #[test]
    fn modifiers() {
        let all = |x: u32| [x; 32];
        let add_with = |x, y, mode| add(Format::F16, &all(x), &all(y), mode)[0];
        assert_eq!(add_with(0xbc00, 0, Mode { relu: true, ..Mode::default() }), 0);
        assert_eq!(add_with(0x7e01, 0, Mode { relu: true, ..Mode::default() }), 0x7fff);
        assert_eq!(add_with(0x4000, 0, Mode { saturate: true, ..Mode::default() }), 0x3c00);
        assert_eq!(add_with(0x7e01, 0, Mode { saturate: true, ..Mode::default() }), 0);
        assert_eq!(add_with(0x8001, 0x8000, Mode { ftz: true, ..Mode::default() }), 0x8000);
        assert_eq!(add_with(0x8001, 0x8000, Mode::default()), 0x8001);
    }

    #[test]
    fn min_max_neg_abs() {
        let all = |x: u32| [x; 32];
        let (minus_zero, nan, one) = (0x8000, 0xfe01, 0x3f80);
        for (x, y) in [(minus_zero, 0), (0, minus_zero)] {
            assert_eq!(max(Format::BF16, &all(x), &all(y), false, false)[0], 0);
            assert_eq!(min(Format::BF16, &all(x), &all(y), false, false)[0], minus_zero);
        }
        assert_eq!(max(Format::F16, &all(nan), &all(one), false, false)[0], one);
        assert_eq!(min(Format::F16, &all(one), &all(nan), false, true)[0], CANONICAL_NAN_16);
        assert_eq!(max(Format::F16, &all(nan), &all(nan), false, false)[0], CANONICAL_NAN_16);
        assert_eq!(neg(Format::F16, &all(0x3c00_bc00), false)[0], 0xbc00_3c00);
        assert_eq!(abs(Format::F16, &all(0xbc00_fe01), false)[0], 0x3c00_7fff);
        assert_eq!(abs(Format::F16, &all(0x8001), true)[0], 0);
    }
}
