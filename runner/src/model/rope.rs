//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of `transformers`: feature
//! `i` of a head is paired with feature `i + head_dim / 2`.

use std::f64::consts::TAU;

use lacuna::Element;
use rayon::prelude::*;

use super::config::{RopeConfig, RopeScaling};

/// The angle per position of each of the `head_dim / 2` pairs, after scaling.
///
/// Everything up to the cosine is in `f64`: at position 131071 an `f32` angle is off by up to 0.004 radians.
pub fn inv_freq(config: &RopeConfig, head_dim: usize) -> Vec<f64> {
    let base = (0..head_dim / 2).map(|i| config.theta.powf(-((2 * i) as f64) / head_dim as f64));
    match config.scaling {
        RopeScaling::Default => base.collect(),
        RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => base
            .map(|f| {
                let turns = original_max_position_embeddings * f / TAU;
                let high = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let high = high.clamp(0.0, 1.0);
                (1.0 - high) * f / factor + high * f
            })
            .collect(),
    }
}

/// Cosines and sines of a run of tokens.
pub struct RotaryTable {
    half: usize,
    /// Per token: `half` cosines, then `half` sines.
    cos_sin: Vec<f32>,
}

impl RotaryTable {
    /// The table of tokens at `position_ids`.
    pub fn new(inv_freq: &[f64], position_ids: &[u32]) -> Self {
        let half = inv_freq.len();
        let mut cos_sin = vec![0.0; position_ids.len() * 2 * half];
        cos_sin.par_chunks_mut(2 * half).with_min_len(64).zip(position_ids).for_each(|(row, &position)| {
            let (cos, sin) = row.split_at_mut(half);
            for ((c, s), &f) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (sin, cos) = (position as f64 * f).sin_cos();
                (*c, *s) = (cos as f32, sin as f32);
            }
        });
        Self { half, cos_sin }
    }

    /// The table, `[tokens, 2 half]`: a row holds the cosines, then the sines.
    pub fn as_slice(&self) -> &[f32] {
        &self.cos_sin
    }

    /// Turns one head of token `token` (counted within the table) from `x` into `out`, rounding once.
    #[inline]
    pub fn rotate<T: Element>(&self, token: usize, x: &[f32], out: &mut [T]) {
        let (cos, sin) = self.cos_sin[token * 2 * self.half..][..2 * self.half].split_at(self.half);
        let (x0, x1) = x.split_at(self.half);
        let (out0, out1) = out.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b) = (x0[i], x1[i]);
            out0[i] = T::from_f32(a * cos[i] - b * sin[i]);
            out1[i] = T::from_f32(b * cos[i] + a * sin[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_3_1: RopeConfig = RopeConfig {
        theta: 500000.0,
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        },
    };

    #[test]
    fn llama3_scaling_keeps_high_divides_low_and_blends_between() {
        let plain = inv_freq(&RopeConfig { scaling: RopeScaling::Default, ..LLAMA_3_1 }, 128);
        let scaled = inv_freq(&LLAMA_3_1, 128);
        for (f, g) in plain.iter().zip(&scaled) {
            let wavelength = TAU / f;
            // The published rule, in wavelengths.
            let want = if wavelength < 8192.0 / 4.0 {
                *f
            } else if wavelength > 8192.0 / 1.0 {
                f / 8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                (1.0 - smooth) * f / 8.0 + smooth * f
            };
            assert!((g - want).abs() <= 1e-15, "wavelength {wavelength}: {g} for {want}");
        }
        assert_eq!((scaled[0], plain[0]), (1.0, 1.0));
        assert!(scaled.iter().zip(&plain).any(|(g, f)| g < f && *g > f / 8.0), "no frequency is blended");
    }

    #[test]
    fn linear_scaling_divides_everything() {
        let config = RopeConfig { theta: 10000.0, scaling: RopeScaling::Linear { factor: 4.0 } };
        let plain = inv_freq(&RopeConfig { scaling: RopeScaling::Default, ..config }, 64);
        assert!(inv_freq(&config, 64).iter().zip(&plain).all(|(g, f)| *g == f / 4.0));
    }

    #[test]
    fn rotation_has_its_closed_form_at_0_1_and_131071() {
        let config = RopeConfig { theta: 500000.0, scaling: RopeScaling::Default };
        let table = RotaryTable::new(&inv_freq(&config, 4), &[0, 1, 131071]);
        let x = [1.0f32, 2.0, 3.0, 4.0];
        let mut out = [0.0f32; 4];
        table.rotate(0, &x, &mut out);
        assert_eq!(out, x);
        for (token, position) in [(1, 1.0f64), (2, 131071.0)] {
            table.rotate(token, &x, &mut out);
            for i in 0..2 {
                let angle = position * 500000f64.powf(-(i as f64) / 2.0);
                let (a, b) = (x[i] as f64, x[i + 2] as f64);
                assert!((out[i] as f64 - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
                assert!((out[i + 2] as f64 - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
            }
        }
    }
}
