//! Sums of f32 in twice the precision: a number as the unevaluated sum of two.

use crate::arch::math::fma;

/// `hi + lo`, `lo` being what `hi` has lost to rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    pub(super) hi: f32,
    pub(super) lo: f32,
}

impl Pair {
    pub(super) const ZERO: Self = Self { hi: 0.0, lo: 0.0 };

    /// The sum (Knuth's two-sum, and the small parts).
    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        let sum = self.hi + other.hi;
        let of_other = sum - self.hi;
        let lost = (self.hi - (sum - of_other)) + (other.hi - of_other);
        Self::of(sum, lost + (self.lo + other.lo))
    }

    /// The product.
    #[inline(always)]
    pub(super) fn times(self, other: Self) -> Self {
        let product = self.hi * other.hi;
        let lost = fma(self.hi, other.hi, -product);
        Self::of(product, lost + fma(self.hi, other.lo, self.lo * other.hi))
    }

    /// Whether this is more than `other`. A NaN is more than nothing. (Without branches: ties of the first parts are rare.)
    #[inline(always)]
    pub(super) fn exceeds(self, other: Self) -> bool {
        (self.hi > other.hi) | ((self.hi == other.hi) & (self.lo > other.lo))
    }

    /// From parts of which the first is the larger.
    #[inline(always)]
    fn of(large: f32, small: f32) -> Self {
        let hi = large + small;
        Self { hi, lo: small - (hi - large) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(x: f64) -> Pair {
        let hi = x as f32;
        Pair { hi, lo: (x - hi as f64) as f32 }
    }

    fn value(x: Pair) -> f64 {
        x.hi as f64 + x.lo as f64
    }

    #[test]
    fn sums_and_products_keep_more_than_44_bits() {
        let (mut sum, mut exact) = (Pair::ZERO, 0.0f64);
        for i in 0..10_000u32 {
            let x = (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1.7e-5;
            sum = sum.add(Pair { hi: x, lo: 0.0 });
            exact += x as f64;
        }
        assert!((value(sum) - exact).abs() < exact * 2f64.powi(-44));
        for share in [0.0, 0.1, 1.0 / 3.0, 0.999_999_999] {
            let product = value(pair(share).times(sum));
            assert!((product - share * value(sum)).abs() <= exact * 2f64.powi(-44));
        }
        assert!(pair(1.0 + 1e-12).exceeds(pair(1.0)) && !pair(1.0).exceeds(pair(1.0)));
        assert!(!Pair { hi: f32::INFINITY, lo: f32::NAN }.exceeds(Pair { hi: f32::INFINITY, lo: 0.0 }));
    }
}
