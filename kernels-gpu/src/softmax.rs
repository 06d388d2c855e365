//! Online softmax of one row, in base 2 (Milakov & Gimelshein, arXiv 1805.02867; FlashAttention-2, arXiv 2307.08691).
//!
//! With `t = softmax_scale * log2(e)`, positive, a tile of scores `S` takes the running maximum `m`, sum `l` and output `O`
//! of a row to
//!
//! ```text
//! m' = max(m, max(S))    P = 2^(t S - t m')    l' = 2^(t m - t m') l + sum(P)    O' = 2^(t m - t m') O + P V
//! ```
//!
//! `m` begins finite, so that no two infinities are subtracted: a row all of whose scores were `-inf` so far has weights
//! `2^-inf = 0` and a sum of 0. The sum is kept per lane, over the keys that the lane holds, and added up at the end. P
//! meets V rounded to 16 bits; the sum takes it unrounded.

use crate::arch::math::{ex2, fma, lg2, rcp};

/// Where the running maximum begins. Below any score of finite inputs worth telling from `-inf`, and finite when scaled
/// by [`crate::params::SoftmaxScale::MAX`].
pub(crate) const ROW_MAX_START: f32 = -1e30;

/// The running maximum of a row, unscaled, and this lane's share of the running sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Softmax {
    pub(crate) row_max: f32,
    pub(crate) row_sum: f32,
}

impl Softmax {
    /// No keys yet.
    pub(crate) const START: Self = Self { row_max: ROW_MAX_START, row_sum: 0.0 };

    /// Takes the row over a tile of scores and turns them into weights; `scores[..][2 * half..][..2]` are the lane's.
    /// Returns the factor by which the row's output so far is to be multiplied.
    ///
    /// `quad_max` is the maximum over the lanes that share the row.
    #[inline(always)]
    pub(crate) fn step<const NT: usize>(
        &mut self,
        scores: &mut [[f32; 4]; NT],
        half: usize,
        scale_log2: f32,
        quad_max: impl Fn(f32) -> f32,
    ) -> f32 {
        // NaN loses against numbers here and comes back in the weights.
        let mut row_max = self.row_max;
        for n in 0..NT {
            row_max = row_max.max(scores[n][2 * half].max(scores[n][2 * half + 1]));
        }
        let row_max = quad_max(row_max);
        let factor = ex2((self.row_max - row_max) * scale_log2);
        let base = -(row_max * scale_log2);
        let mut row_sum = self.row_sum * factor;
        for n in 0..NT {
            for score in &mut scores[n][2 * half..2 * half + 2] {
                *score = ex2(fma(*score, scale_log2, base));
                row_sum += *score;
            }
        }
        *self = Self { row_max, row_sum };
        factor
    }

    /// What the row's output is to be divided by, as a factor; 0 for a row that saw nothing. `row_sum` is whole.
    #[inline(always)]
    pub(crate) fn normalizer(self) -> f32 {
        if self.row_sum == 0.0 { 0.0 } else { rcp(self.row_sum) }
    }

    /// The natural logarithm of the sum of the exponentials of the row's logits. `row_sum` is whole.
    #[inline(always)]
    pub(crate) fn log_sum_exp(self, scale_log2: f32) -> f32 {
        // lg2(0) is -inf: a row that saw nothing.
        fma(self.row_max, scale_log2, lg2(self.row_sum)) * core::f32::consts::LN_2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output, its factor and log-sum-exp over tiles of 4 scores, with `v_j = j`.
    fn run(scores: &[f32], scale: f32) -> (f32, f32) {
        let scale_log2 = scale * core::f32::consts::LOG2_E;
        let mut softmax = Softmax::START;
        let mut out = 0.0;
        for (tile, chunk) in scores.chunks_exact(4).enumerate() {
            let mut s = [[0.0, 0.0, chunk[0], chunk[1]], [0.0, 0.0, chunk[2], chunk[3]]];
            out *= softmax.step(&mut s, 1, scale_log2, |x| x);
            for (i, p) in [s[0][2], s[0][3], s[1][2], s[1][3]].into_iter().enumerate() {
                out += p * (4 * tile + i) as f32;
            }
        }
        (out * softmax.normalizer(), softmax.log_sum_exp(scale_log2))
    }

    #[test]
    fn equals_softmax_over_the_whole_row() {
        let scores: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 20.0) * 0.7).collect();
        let weights: Vec<f64> = scores.iter().map(|&s| (0.3 * s as f64).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let want: f64 = weights.iter().enumerate().map(|(j, w)| w / sum * j as f64).sum();
        let (out, lse) = run(&scores, 0.3);
        assert!(
            (out as f64 - want).abs() < 1e-4 && (lse as f64 - sum.ln()).abs() < 1e-5,
            "{out} {want} {lse}"
        );
    }

    #[test]
    fn hidden_scores_have_no_weight() {
        const HIDDEN: f32 = f32::NEG_INFINITY;
        let some = [HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, 2.0, HIDDEN, HIDDEN];
        let (out, lse) = run(&some, 0.5);
        assert!(out == 5.0 && (lse - 1.0).abs() < 1e-6, "{out} {lse}");
        assert_eq!(run(&[HIDDEN; 8], 1e8), (0.0, HIDDEN));
        assert!(run(&[1.0, f32::NAN, 0.0, 0.0], 1.0).0.is_nan());
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let (out, lse) = run(&[3e4, 3e4, -3e4, 0.0], 1.0);
        assert!(out == 0.5 && (lse - 3e4).abs() < 1.0, "{out} {lse}");
    }
}
