//! How far the probe's block attention is from what mean queries and keys predict.

/// The Jensen-Shannon divergence of two distributions, natural logarithm.
///
/// With `as_published` they are rounded to `f32`, `0 ln 0` is NaN and a negative result stays.
pub(super) fn jensen_shannon(a: &[f64], b: &[f64], as_published: bool) -> f64 {
    let round = |x: f64| if as_published { x as f32 as f64 } else { x };
    let term = |x: f64, mean: f64| if x == 0.0 && !as_published { 0.0 } else { x * (x / mean).ln() };
    let mut sum = 0.0;
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (round(a), round(b));
        let mean = (a + b) / 2.0;
        sum += term(a, mean) + term(b, mean);
    }
    if as_published { sum / 2.0 } else { (sum / 2.0).max(0.0) }
}

/// `exp(x) / sum exp(x)` in place; `-inf` entries weigh 0.
pub(super) fn softmax(logits: &mut [f64]) {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for x in &mut *logits {
        *x = (*x - max).exp();
        sum += *x;
    }
    logits.iter_mut().for_each(|x| *x /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_equal_disjoint_and_zero_distributions() {
        assert_eq!(jensen_shannon(&[0.25, 0.75], &[0.25, 0.75], false), 0.0);
        assert!((jensen_shannon(&[1.0, 0.0], &[0.0, 1.0], false) - std::f64::consts::LN_2).abs() < 1e-15);
        assert!(jensen_shannon(&[1.0, 0.0], &[1.0, 0.0], true).is_nan());
        let mut logits = [0.0, f64::NEG_INFINITY, 3f64.ln()];
        softmax(&mut logits);
        assert!((logits[0] - 0.25).abs() < 1e-15 && logits[1] == 0.0);
    }
}
