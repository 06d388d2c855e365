//! What a token weighs: its probability relative to the likeliest token's, in fixed point.
//!
//! A weight has the same bits wherever it is computed: it is made of sums and products that are rounded to nearest, and
//! of integers, and uses none of the approximations that processors differ in. Sums of weights are exact. Whoever follows
//! the rules here on the same logits therefore draws the same token.

use crate::select::fixed::{self, FRACTION_BITS, share_ceil, share_floor};

/// The weight of the likeliest token. Sums of fewer than 2^24 weights stay below 2^64.
pub const ONE: u64 = 1 << FRACTION_BITS;

/// The factor that takes differences of logits to powers of two: `log2(e) / temperature`, at most the largest `f32`.
#[cfg(not(target_arch = "nvptx64"))]
pub fn scale_log2(temperature: f32) -> f32 {
    (core::f64::consts::LOG2_E / temperature as f64).min(f32::MAX as f64) as f32
}

/// The logarithm to base 2 of a token's weight, 0 for the likeliest, `top` being the largest logit.
#[inline(always)]
pub fn log2_weight(logit: f32, top: f32, scale_log2: f32) -> f32 {
    (logit - top) * scale_log2
}

/// The weight of that logarithm, in multiples of 2^-40, rounded down; 0 below 2^-40 of the likeliest.
#[inline(always)]
pub fn of_log2(log2_weight: f32) -> u64 {
    fixed::of(exp2(log2_weight))
}

/// The weight of a token.
#[inline(always)]
pub fn weight(logit: f32, top: f32, scale_log2: f32) -> u64 {
    of_log2(log2_weight(logit, top, scale_log2))
}

/// The least weight that min-p keeps.
#[inline(always)]
pub fn least(min_p: f32) -> u64 {
    share_ceil(min_p, ONE)
}

/// The weight that top-p has to reach.
#[inline(always)]
pub fn need(top_p: f32, total: u64) -> u64 {
    share_ceil(top_p, total)
}

/// The token is drawn, in ascending order, with which the sum of the weights exceeds this. `uniform` lies in [0, 1).
#[inline(always)]
pub fn goal(uniform: f32, total: u64) -> u64 {
    share_floor(uniform, total).min(total.saturating_sub(1))
}

/// `2^x` for `x` up to 0, within 2 units in the last place; `2^-64` for less than -64 and for NaN. 1 for 0.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    /// Added to a number, rounds it to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// `(2^f - 1) / f` for `f` from -1/2 to 1/2, interpolated at the Chebyshev nodes: within 1e-8 of `2^f`.
    const COEFFICIENTS: [u32; 6] =
        [0x3922_09c5, 0x3aaf_8448, 0x3c1d_952a, 0x3d63_57b6, 0x3e75_fdf0, 0x3f31_7218];
    let x = x.max(-64.0);
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let mut power = f32::from_bits(COEFFICIENTS[0]);
    for i in 1..COEFFICIENTS.len() {
        power = power * f + f32::from_bits(COEFFICIENTS[i]);
    }
    power = power * f + 1.0;
    f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_right_to_two_units() {
        let mut worst = 0.0f64;
        for i in 0..=4_000_000 {
            let x = i as f32 * -1e-5;
            let exact = (x as f64).exp2();
            worst = worst.max((exp2(x) as f64 / exact - 1.0).abs());
        }
        assert!(worst < 2.0 * 2f64.powi(-24), "{worst:e}");
        assert_eq!([exp2(0.0), exp2(-0.0), exp2(-1.0), exp2(-40.0)], [1.0, 1.0, 0.5, 2f32.powi(-40)]);
        for low in [-64.0, -65.0, f32::MIN, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp2(low), 2f32.powi(-64));
        }
        // The smallest step down is not up.
        for x in [-f32::MIN_POSITIVE, -1e-45, -1e-8, -3e-8, -1e-7] {
            assert!(exp2(x) <= 1.0);
        }
    }

    #[test]
    fn weights_follow_the_temperature() {
        for temperature in [1e-45, 1e-3, 0.7, 1.0, 30.0, f32::MAX] {
            let scale = scale_log2(temperature);
            assert!(scale > 0.0 && scale.is_finite());
            assert_eq!(weight(3.0, 3.0, scale), ONE);
            for gap in [0.01f32, 1.0, 20.0] {
                let logit = 3.0 - gap;
                let exact = ((logit as f64 - 3.0) / temperature as f64).exp() * ONE as f64;
                let got = weight(logit, 3.0, scale) as f64;
                assert!((got - exact).abs() <= 1.0 + 4e-6 * exact, "{exact} {got}");
            }
        }
        assert_eq!(weight(f32::NEG_INFINITY, 1.0, 1.0), 0);
    }

    #[test]
    fn shares_stay_in_range() {
        assert_eq!([least(0.0), least(0.5), least(1.0), least(1e-30)], [0, ONE / 2, ONE, 1]);
        assert_eq!([need(1.0, 7), need(0.5, 7), need(1e-30, 7)], [7, 4, 1]);
        assert_eq!([goal(0.0, 7), goal(0.5, 7), goal(1f32.next_down(), 7), goal(0.0, 0)], [0, 3, 6, 0]);
        assert_eq!(goal(1f32.next_down(), u64::MAX), u64::MAX - (1 << 40));
    }
}
