//! What the softmax of a row needs to know of some keys: maximum and sum.
//!
//! All in base 2, and relative to the *rounded* product of maximum and scale: the same number is subtracted when sums are
//! formed, when they are merged and when probabilities are computed, so that its rounding cancels however large it is.

use crate::arch::math::{ex2, fma, rcp};
use crate::softmax::ROW_MAX_START;

/// `2^(x - max)` summed over the scaled scores `x` of some keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Statistics {
    /// The maximum, scaled and rounded.
    pub(crate) max: f32,
    pub(crate) sum: f32,
}

impl Statistics {
    /// No keys. The maximum is finite, so that no two infinities are subtracted.
    pub(crate) const START: Self = Self { max: ROW_MAX_START, sum: 0.0 };

    /// Takes in `N` scores before scaling; `-inf` for keys that the row does not see.
    #[inline(always)]
    pub(crate) fn add<const N: usize>(&mut self, scores: [f32; N], scale_log2: f32) {
        let mut largest = scores[0];
        for i in 1..N {
            largest = largest.max(scores[i]);
        }
        let max = self.max.max(largest * scale_log2);
        let mut sum = self.sum * ex2(self.max - max);
        for i in 0..N {
            sum += ex2(fma(scores[i], scale_log2, -max));
        }
        *self = Self { max, sum };
    }

    /// The same keys relative to another maximum, no smaller.
    #[inline(always)]
    pub(crate) fn sum_relative_to(self, max: f32) -> f32 {
        self.sum * ex2(self.max - max)
    }

    /// Takes in what others have of `N` further sets of keys.
    #[inline(always)]
    pub(crate) fn merge<const N: usize>(&mut self, parts: [Self; N]) {
        let mut max = self.max;
        for i in 0..N {
            max = max.max(parts[i].max);
        }
        let mut sum = self.sum_relative_to(max);
        for i in 0..N {
            sum += parts[i].sum_relative_to(max);
        }
        *self = Self { max, sum };
    }

    /// How probabilities follow from scaled scores `x`: `2^(x + shift) * factor`.
    #[inline(always)]
    pub(crate) fn weights(self) -> Weights {
        if self.sum == 0.0 {
            return Weights::NONE;
        }
        Weights { shift: -self.max, factor: rcp(self.sum) }
    }
}

/// See [`Statistics::weights`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weights {
    pub(crate) shift: f32,
    pub(crate) factor: f32,
}

impl Weights {
    /// Every probability is 0: of a row that does not exist or sees nothing.
    pub(crate) const NONE: Self = Self { shift: ROW_MAX_START, factor: 0.0 };

    /// The probability that belongs to a score.
    #[inline(always)]
    pub(crate) fn probability(self, score: f32, scale_log2: f32) -> f32 {
        ex2(fma(score, scale_log2, self.shift)) * self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax_over_all_parts() {
        const HIDDEN: f32 = f32::NEG_INFINITY;
        for (offset, scale) in [(0.0f32, 0.3f32), (900.0, 1.0), (-3e4, 0.7)] {
            let score = |i: usize| if i == 5 { HIDDEN } else { offset + ((i * 37 % 64) as f32 - 20.0) * 0.5 };
            let scale_log2 = scale * core::f32::consts::LOG2_E;
            let part = |first: usize| {
                let mut part = Statistics::START;
                part.add([HIDDEN; 4], scale_log2);
                part.add(core::array::from_fn::<_, 16, _>(|i| score(first + i)), scale_log2);
                part.add(core::array::from_fn::<_, 16, _>(|i| score(first + 16 + i)), scale_log2);
                part
            };
            let mut whole = Statistics::START;
            whole.merge([part(0), Statistics::START]);
            whole.merge([part(32)]);
            let largest = (0..64).map(score).fold(HIDDEN, f32::max) as f64;
            let weight = |i| ((score(i) as f64 - largest) * scale as f64).exp();
            let sum: f64 = (0..64).map(weight).sum();
            let mut total = 0.0;
            for i in 0..64 {
                let p = whole.weights().probability(score(i), scale_log2) as f64;
                total += p;
                // A scaled score of 3e4 is known to 2e-3, however it is computed.
                let tolerance = 2e-6 + (offset.abs() * scale) as f64 * 1.2e-7;
                assert!((p - weight(i) / sum).abs() <= tolerance * weight(i) / sum, "{offset} {i}");
            }
            assert!((total - 1.0).abs() < 1e-6, "{offset}: {total}");
        }
    }

    #[test]
    fn a_row_that_sees_nothing_has_no_weight() {
        let mut hidden = Statistics::START;
        hidden.add([f32::NEG_INFINITY; 8], 1e8);
        assert_eq!(hidden, Statistics::START);
        hidden.merge([Statistics::START; 3]);
        for score in [0.0, 1e4, f32::NEG_INFINITY] {
            assert_eq!(hidden.weights().probability(score, 1.0), 0.0);
        }
    }
}
