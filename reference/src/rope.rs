//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864).

use std::f64::consts::TAU;

use lacuna_core::{Element, Error, Result, TensorView};

/// Which features a rotation pairs, of the first `r` that rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `i` with `i + r / 2` (Llama, Qwen).
    HalfSplit,
    /// `2 i` with `2 i + 1` (GLM).
    Interleaved,
}

/// How frequencies stretch beyond the trained length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor` (position interpolation).
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// The stretch of long waves.
        factor: f64,
        /// Waves longer than `original_max_position / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_position / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The trained length.
        original_max_position: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): a ramp over the feature index between the waves that turn `beta_fast`
    /// and `beta_slow` times over the trained length.
    Yarn {
        /// The stretch of long waves.
        factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is divided by `factor`.
        beta_slow: f64,
        /// The trained length.
        original_max_position: f64,
        /// Multiplies cosines and sines; `None` means `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
}

/// The angles per position, `theta^(-2 i / rotary_dim)` for `i` in `0..rotary_dim / 2`, after scaling, and the factor of
/// cosines and sines.
pub fn rope_frequencies(theta: f64, rotary_dim: usize, scaling: &RopeScaling) -> (Vec<f64>, f64) {
    let half = rotary_dim / 2;
    let plain = |i: usize| theta.powf(-2.0 * i as f64 / rotary_dim as f64);
    let frequency = |i: usize| match *scaling {
        RopeScaling::None => plain(i),
        RopeScaling::Linear { factor } => plain(i) / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let turns = original_max_position * plain(i) / TAU;
            let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - keep) * plain(i) / factor + keep * plain(i)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, .. } => {
            // The feature index whose wave makes this many turns over the trained length.
            let index = |turns: f64| {
                rotary_dim as f64 * (original_max_position / (turns * TAU)).ln() / (2.0 * theta.ln())
            };
            let low = index(beta_fast).floor().max(0.0);
            let high = index(beta_slow).ceil().min(rotary_dim as f64 - 1.0);
            // A ramp of no width would divide by zero.
            let high = if low == high { high + 0.001 } else { high };
            let stretch = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            plain(i) / factor * stretch + plain(i) * (1.0 - stretch)
        }
    };
    let attention_factor = match *scaling {
        RopeScaling::Yarn { factor, attention_factor, .. } => {
            attention_factor.unwrap_or(if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 })
        }
        _ => 1.0,
    };
    ((0..half).map(frequency).collect(), attention_factor)
}

/// Rotates the first `2 * frequencies.len()` features of every head of `x` by `positions[token] * frequencies[i]`: a pair
/// `(a, b)` becomes `(a cos - b sin, b cos + a sin)`, times `attention_factor`. Other features pass unchanged. Positions
/// are any integers. Returns `[tokens, heads, head_dim]`.
///
/// # Errors
/// Another number of positions than tokens, more rotating features than `head_dim`.
pub fn rope<T: Element>(
    x: &TensorView<T>,
    positions: &[u32],
    frequencies: &[f64],
    attention_factor: f64,
    layout: RopeLayout,
) -> Result<Vec<f64>> {
    const OP: &str = "rope";
    let [tokens, heads, dim] = x.shape();
    if positions.len() != tokens {
        return Err(Error::shape(OP, "positions", [tokens], [positions.len()]));
    }
    let half = frequencies.len();
    if 2 * half > dim {
        return Err(Error::invalid(
            OP,
            "frequencies",
            format_args!("at most half of head_dim ({dim})"),
            half,
        ));
    }
    let mut y = Vec::new();
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let mut row: Vec<f64> = x.row(token, head).iter().map(|x| x.to_f32() as f64).collect();
            for (i, frequency) in frequencies.iter().enumerate() {
                let (first, second) = match layout {
                    RopeLayout::HalfSplit => (i, i + half),
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (a, b) = (row[first], row[second]);
                row[first] = (a * cos - b * sin) * attention_factor;
                row[second] = (b * cos + a * sin) * attention_factor;
            }
            y.extend(row);
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, Tensor, Tolerance, assert_close};

    fn llama31(rotary_dim: usize) -> Vec<f64> {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192.0,
        };
        rope_frequencies(5e5, rotary_dim, &scaling).0
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let (scaled, plain) = (llama31(128), rope_frequencies(5e5, 128, &RopeScaling::None).0);
        assert_eq!(plain[0], 1.0);
        assert!((plain[32] - 5e5f64.powf(-0.5)).abs() < 1e-15);
        for (scaled, plain) in scaled.iter().zip(plain) {
            let wave = TAU / plain;
            if wave < 2048.0 {
                assert!((scaled / plain - 1.0).abs() < 1e-15);
            } else if wave > 8192.0 {
                assert!((scaled * 8.0 / plain - 1.0).abs() < 1e-15);
            } else {
                assert!(*scaled < plain && *scaled > plain / 8.0);
            }
        }
    }

    #[test]
    fn yarn_ramps_between_the_betas() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position: 32768.0,
            attention_factor: None,
        };
        let ((scaled, factor), (plain, one)) =
            (rope_frequencies(1e6, 128, &scaling), rope_frequencies(1e6, 128, &RopeScaling::None));
        assert_eq!((one, (factor - 1.138629436112).abs() < 1e-11), (1.0, true));
        let ratio: Vec<f64> = scaled.iter().zip(plain).map(|(s, p)| p / s).collect();
        // 128 ln(32768 / (32 TAU)) / (2 ln 1e6) = 23.6 and 128 ln(32768 / TAU) / (2 ln 1e6) = 39.6.
        assert!(ratio[..=23].iter().all(|r| (r - 1.0).abs() < 1e-12));
        assert!(ratio[40..].iter().all(|r| (r - 4.0).abs() < 1e-12));
        assert!(ratio.windows(2).all(|w| w[0] <= w[1] + 1e-12));
        let linear = rope_frequencies(1e6, 128, &RopeScaling::Linear { factor: 4.0 }).0;
        assert!((linear[40] / scaled[40] - 1.0).abs() < 1e-12 && linear[0] == 0.25);
    }

    #[test]
    fn products_depend_on_distance_only() {
        let x = Tensor::<f32>::random(&mut Rng::new(0), 2, 1, 16);
        for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
            let product = |a: u32, b: u32| -> f64 {
                let y = rope(&x.view(), &[a, b], &llama31(16), 1.0, layout).unwrap();
                (0..16).map(|d| y[d] * y[16 + d]).sum()
            };
            assert!((product(7, 3) - product(131071, 131067)).abs() < 1e-9);
            assert!((product(7, 3) - product(7, 4)).abs() > 1e-3);
        }
    }

    #[test]
    fn layouts_pair_their_own_features() {
        let x = TensorView::<f32>::thd(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1, 1, 6).unwrap();
        let quarter = [TAU / 4.0, 0.0];
        let case = crate::case!(0);
        let turned = |layout| rope(&x, &[1], &quarter, 1.0, layout).unwrap();
        let tolerance = Tolerance::absolute(1e-12);
        assert_close(&turned(RopeLayout::HalfSplit), &[-3.0, 2.0, 1.0, 4.0, 5.0, 6.0], tolerance, &case);
        assert_close(&turned(RopeLayout::Interleaved), &[-2.0, 1.0, 3.0, 4.0, 5.0, 6.0], tolerance, &case);
        let at_zero = rope(&x, &[0], &quarter, 1.0, RopeLayout::HalfSplit).unwrap();
        assert_eq!(at_zero, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(rope(&x, &[0, 1], &quarter, 1.0, RopeLayout::HalfSplit).is_err());
        assert!(rope(&x, &[0], &[1.0; 4], 1.0, RopeLayout::HalfSplit).is_err());
    }
}
