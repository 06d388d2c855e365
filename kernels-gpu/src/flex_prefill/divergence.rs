//! The Jensen-Shannon divergence of two distributions, without loss where they are close.

use crate::arch::math::{fma, rcp};

/// `ln x` of a positive normal number, within 3e-7 of its own size: the instruction's error, relative to 1, is too large
/// near 1.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    // x = m 2^e with m from the root of 1/2 to that of 2.
    const HALF_ROOT: u32 = 0x3f35_04f3;
    let shifted = x.to_bits().wrapping_sub(HALF_ROOT);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + HALF_ROOT);
    // ln m = 2 artanh s, |s| <= 0.172: the next term is below 1e-9 of the first.
    let s = (m - 1.0) * rcp(m + 1.0);
    let w = s * s;
    let mut series = 2.0 / 11.0;
    series = fma(series, w, 2.0 / 9.0);
    series = fma(series, w, 2.0 / 7.0);
    series = fma(series, w, 2.0 / 5.0);
    series = fma(series, w, 2.0 / 3.0);
    series = fma(series, w, 2.0);
    // ln 2 in two parts, the first so short that its products with exponents are exact.
    let (high, low) = (0.693_359_4, -0.000_212_194_44);
    fma(e, high, fma(series, s, e * low))
}

/// `a ln(a / u) + v ln(v / u)` with `u = (a + v) / 2` and `0 ln 0 = 0`; never negative.
///
/// With `t = (a - v) / (a + v)` it is `u ((1 + t) ln(1 + t) + (1 - t) ln(1 - t))`, an even series in `t` whose terms are all
/// positive: nothing cancels where `a` and `v` are close, which is where heads are told apart.
#[inline(always)]
pub(crate) fn term(a: f32, v: f32) -> f32 {
    let sum = a + v;
    // The reciprocal of less than the least normal number is infinite.
    if sum < 1e-30 {
        return 0.0;
    }
    let inverse = rcp(sum);
    let t = (a - v) * inverse;
    let w = t * t;
    let whole = if w <= 0.25 {
        // sum of w^k / (k (2k - 1)); the ninth term is below 1e-7 of the first.
        let mut series = 1.0 / 120.0;
        series = fma(series, w, 1.0 / 91.0);
        series = fma(series, w, 1.0 / 66.0);
        series = fma(series, w, 1.0 / 45.0);
        series = fma(series, w, 1.0 / 28.0);
        series = fma(series, w, 1.0 / 15.0);
        series = fma(series, w, 1.0 / 6.0);
        series = fma(series, w, 1.0);
        series * w
    } else {
        // 1 - |t| without its rounding, which near 0 would be all of it; the two add up to 2, whatever the reciprocal's error.
        let x_ln_x = |x: f32| if x <= 1e-30 { 0.0 } else { x * ln(x) };
        let small = 2.0 * a.min(v) * inverse;
        x_ln_x(small) + x_ln_x(2.0 - small)
    };
    0.5 * sum * whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_close_relative_to_their_size() {
        for bits in (f32::MIN_POSITIVE.to_bits()..1e30f32.to_bits()).step_by(9_973) {
            let x = f32::from_bits(bits);
            let want = (x as f64).ln();
            assert!((ln(x) as f64 - want).abs() <= 3e-7 * want.abs(), "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn terms_are_those_of_the_definition() {
        let x_ln = |x: f64, u: f64| if x == 0.0 { 0.0 } else { x * (x / u).ln() };
        let values: Vec<f32> = (0..200).map(|i| (i as f32 * 0.37).sin().abs().powi(6)).collect();
        for &a in values.iter().chain(&[0.0, 1e-20, 1.0]) {
            for &v in values.iter().chain(&[0.0, 1e-20, 1.0]) {
                let (x, y) = (a as f64, v as f64);
                let u = (x + y) / 2.0;
                let want = if u == 0.0 { 0.0 } else { x_ln(x, u) + x_ln(y, u) };
                let got = term(a, v) as f64;
                // The u add up to 1, and D^2 is half the sum of the terms: 2e-7 if all errors had one sign.
                let error = (got - want).abs();
                assert!(got >= 0.0 && error <= 4e-7 * u && error <= 1.5e-6 * want, "{a} {v}: {got} {want}");
            }
        }
        // Close distributions: relative, not absolute, precision.
        for shift in [1e-2f32, 1e-3, 1e-4] {
            let (a, v) = (0.01 * (1.0 + shift), 0.01f32);
            let (x, y) = (a as f64, v as f64);
            let t = (x - y) / (x + y);
            let want = (x + y) / 2.0 * (t * t + t.powi(4) / 6.0);
            assert!((term(a, v) as f64 - want).abs() <= 1e-6 * want, "{shift}");
        }
        assert!(term(f32::NAN, 0.5).is_nan() && term(0.5, f32::NAN).is_nan());
    }
}
