//! The gate of the MLP: `silu(gate) * up`, in f32, rounded once.
//!
//! # Thread mapping
//! A thread has 8 features of a row: it reads 16 bytes of the gate and 16 of `up`, and writes 16. Nothing is shared and
//! nothing is read twice; a row is spread over as many CTAs as it takes, so that a single one still occupies several SMs.
//!
//! # Numerics
//! `silu(x) = x / (1 + exp(-x))`, by `e = exp(-|x|)` in place of the exponential, which never overflows: for `x < 0` both
//! sides of the fraction are multiplied by `e`. The divisor lies between 1 and 2. NaN stays NaN, and so does the gate
//! `-inf`, for which the formula says `-inf / inf`. Below -87, where `e` is subnormal, the result is 0.
//!
//! # Machine code
//! By ptxas 13.0.88 for sm_80: 38 registers, nothing spilled; 121 instructions for 8 features, 16 of them MUFU, two loads and
//! a store of 16 bytes. None of this has been timed.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;

use crate::arch::math::{ex2, rcp};

/// `silu(gate) * up`.
#[inline(always)]
fn gated(gate: f32, up: f32) -> f32 {
    let e = ex2(gate.abs() * -core::f32::consts::LOG2_E);
    // A NaN is not less than 0.
    let numerator = if gate < 0.0 { gate * e } else { gate };
    numerator * rcp(1.0 + e) * up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formula_and_does_not_overflow() {
        for i in -2000..=2000 {
            let (gate, up) = (i as f32 / 10.0, 0.3 - i as f32 / 7.0);
            let wide = gate as f64;
            let want = wide / (1.0 + (-wide).exp()) * up as f64;
            let got = gated(gate, up) as f64;
            assert!(
                (got - want).abs() <= (wide.abs() + 8.0) * 1.2e-7 * want.abs() + 1e-33,
                "{got} for {want} at {gate}"
            );
        }
    }

    #[test]
    fn numbers_that_are_none() {
        assert!(gated(f32::NAN, 1.0).is_nan() && gated(1.0, f32::NAN).is_nan());
        assert!(gated(f32::NEG_INFINITY, 1.0).is_nan());
        assert_eq!(gated(f32::INFINITY, 2.0), f32::INFINITY);
        assert_eq!(gated(1.0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
