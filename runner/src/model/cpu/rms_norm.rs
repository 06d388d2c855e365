//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of rows of features.

use lacuna::Element;
use rayon::prelude::*;

/// Partial sums kept side by side, so that the sum of squares vectorises in a fixed order.
const LANES: usize = 16;
/// Features that make a task worth a thread.
const MIN_TASK: usize = 1 << 14;

/// `out = weight * round_T(x / sqrt(mean(x^2) + eps))` for each row of `weight.len()` features: squares and the mean in
/// `f32`, rounded to `T` before the weight is applied, as Llama was trained.
pub(crate) fn rms_norm<T: Element>(x: &[T], weight: &[T], eps: f32, out: &mut [T]) {
    let hidden = weight.len();
    let rows = out.par_chunks_exact_mut(hidden).with_min_len(MIN_TASK.div_ceil(hidden));
    rows.zip(x.par_chunks_exact(hidden)).for_each(|(out, x)| {
        let mut lanes = [0.0f32; LANES];
        let parts = x.chunks_exact(LANES);
        for (lane, x) in parts.remainder().iter().enumerate() {
            lanes[lane] = x.to_f32() * x.to_f32();
        }
        for part in parts {
            for (lane, x) in lanes.iter_mut().zip(part) {
                *lane += x.to_f32() * x.to_f32();
            }
        }
        let mean = lanes.iter().sum::<f32>() / hidden as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = T::from_f32(w.to_f32() * T::from_f32(x.to_f32() * scale).to_f32());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn equals_the_formula_in_f64() {
        for hidden in [1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..3 * hidden).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
            let weight: Vec<f32> = (0..hidden).map(|i| 0.5 + i as f32 / 50.0).collect();
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(&x, &weight, 1e-5, &mut out);
            for (row, x) in out.chunks(hidden).zip(x.chunks(hidden)) {
                let mean = x.iter().map(|&x| x as f64 * x as f64).sum::<f64>() / hidden as f64;
                for ((o, x), w) in row.iter().zip(x).zip(&weight) {
                    let want = *x as f64 / (mean + 1e-5).sqrt() * *w as f64;
                    assert!((*o as f64 - want).abs() <= 1e-6 * (1.0 + want.abs()), "{o} for {want}");
                }
            }
        }
    }

    #[test]
    fn rounds_before_the_weight() {
        let (x, weight) = ([1.0f32, 2.0, 3.0, 4.5].map(bf16::from_f32), [3.0f32; 4].map(bf16::from_f32));
        let mut out = [bf16::NAN; 4];
        rms_norm(&x, &weight, 0.0, &mut out);
        let scale = 1.0 / (x.iter().map(|x| x.to_f32().powi(2)).sum::<f32>() / 4.0).sqrt();
        let want = x.map(|x| bf16::from_f32(3.0 * bf16::from_f32(x.to_f32() * scale).to_f32()));
        assert_eq!(out, want);
        let late = x.map(|x| bf16::from_f32(3.0 * x.to_f32() * scale));
        assert_ne!(out, late, "the inputs do not tell the two orders apart");
    }
}
