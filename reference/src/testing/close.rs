//! Comparing tensors.

use half::{bf16, f16};
use lacuna_core::Element;

use super::Case;

/// How far a result may lie from the reference, at most and on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Of the largest absolute error.
    pub max: f64,
    /// Of the mean absolute error.
    pub mean: f64,
}

impl Tolerance {
    /// Of a log-sum-exp in `f32`.
    pub const LSE: Self = Self { max: 1e-3, mean: 1e-3 };

    /// Of an attention output of type `T`, from the `f64` reference and the [twin](crate::testing::twin_attention):
    /// twice the twin's largest error plus twice the reference's own rounding in `T` around 0.3; 1.5 times the twin's
    /// mean error plus 1e-5. (FlashAttention's criterion; a fixed 1e-2 accepts planted bugs.)
    ///
    /// The largest error may be 1e-6 in any case: with few elements, an `f32` twin is exact by chance.
    pub fn attention<T: Element>(reference: &[f64], twin: &[f64]) -> Self {
        let round = |x: f64| T::from_f64(x).to_f32() as f64;
        let rounding = |x: f64| (round(round(round(x) + 0.3) - 0.3) - x).abs();
        let errors = || reference.iter().zip(twin).map(|(r, t)| (t - r).abs());
        let largest = |it: &mut dyn Iterator<Item = f64>| it.fold(0.0, f64::max);
        let max = 2.0 * largest(&mut errors()) + 2.0 * largest(&mut reference.iter().map(|&x| rounding(x)));
        let mean = errors().sum::<f64>() / reference.len().max(1) as f64;
        Self { max: max.max(1e-6), mean: 1.5 * mean + 1e-5 }
    }

    /// The same bound for the largest and the mean error.
    pub fn absolute(max: f64) -> Self {
        Self { max, mean: max }
    }
}

/// A number that a comparison takes.
pub trait Number: Copy {
    /// Widens exactly.
    fn to_f64(self) -> f64;
}

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

impl Number for f32 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for bf16 {
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

impl Number for f16 {
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

/// Panics unless `got` lies within `tolerance` of `want`. Infinities and NaN of `want` must stand in `got` as well, and
/// nowhere else. The message holds the worst element, the errors, and the line that repeats the case.
///
/// # Panics
/// When the two differ.
#[track_caller]
pub fn assert_close<N: Number>(got: &[N], want: &[f64], tolerance: Tolerance, case: &Case) {
    assert_eq!(got.len(), want.len(), "lengths differ\n  repeat: {case}");
    let error = |i: usize| {
        let (got, want) = (got[i].to_f64(), want[i]);
        if got == want || (got.is_nan() && want.is_nan()) { 0.0 } else { (got - want).abs() }
    };
    // A NaN error is worse than any number.
    let rank = |e: f64| if e.is_nan() { f64::INFINITY } else { e };
    let Some(worst) = (0..want.len()).max_by(|&a, &b| rank(error(a)).total_cmp(&rank(error(b)))) else {
        return;
    };
    let (max, mean) = (error(worst), (0..want.len()).map(error).sum::<f64>() / want.len() as f64);
    // False for NaN, which `max > tolerance` would let pass.
    let within = max <= tolerance.max && mean <= tolerance.mean;
    if !within {
        panic!(
            "worst at {worst} of {}: got {}, want {}\n  max error {max:.3e} (tolerance {:.3e}), mean {mean:.3e} ({:.3e})\n  \
             repeat: {case}",
            want.len(),
            got[worst].to_f64(),
            want[worst],
            tolerance.max,
            tolerance.mean,
        );
    }
}

/// Panics unless `got` and `want` hold the same bits, up to the sign of zero and the payload of NaN.
///
/// # Panics
/// When the two differ.
#[track_caller]
pub fn assert_bits<A: Number, B: Number>(got: &[A], want: &[B], case: &Case) {
    assert_eq!(got.len(), want.len(), "lengths differ\n  repeat: {case}");
    let same = |(a, b): (&A, &B)| {
        let (a, b) = (a.to_f64(), b.to_f64());
        a == b || (a.is_nan() && b.is_nan())
    };
    if let Some(i) = got.iter().zip(want).position(|pair| !same(pair)) {
        panic!(
            "first difference at {i} of {}: got {}, want {}\n  repeat: {case}",
            want.len(),
            got[i].to_f64(),
            want[i].to_f64()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(got: &[f32], want: &[f64]) -> bool {
        std::panic::catch_unwind(|| assert_close(got, want, Tolerance::absolute(0.1), &crate::case!(0)))
            .is_err()
    }

    #[test]
    fn nan_and_infinity_are_errors_unless_wanted() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        assert!(!fails(&[1.0, f32::NAN, f32::NEG_INFINITY], &[1.05, nan, -inf]));
        assert!(fails(&[f32::NAN, 5.0], &[0.0, 5.0]));
        assert!(fails(&[0.0], &[nan]));
        assert!(fails(&[f32::INFINITY], &[0.0]));
        assert!(fails(&[f32::INFINITY], &[-inf]));
        assert!(fails(&[0.0], &[-inf]));
        assert!(fails(&[1.2], &[1.0]));
        assert!(fails(&[], &[1.0]));
    }

    #[test]
    fn the_attention_tolerance_is_that_of_the_type() {
        let reference = [0.7, -0.1];
        let tolerance = Tolerance::attention::<bf16>(&reference, &[0.701, -0.1]);
        assert!(
            tolerance.max > 0.002 && tolerance.max < 0.02 && tolerance.mean > 5e-4 && tolerance.mean < 1e-3
        );
        assert_eq!(Tolerance::attention::<f32>(&[], &[]), Tolerance { max: 1e-6, mean: 1e-5 });
    }
}
