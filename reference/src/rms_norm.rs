//! Root-mean-square normalisation.

use lacuna_core::{Element, Error, Result};

/// `y = x / sqrt(mean(x^2) + eps) * weight`, row by row; a row has as many features as `weight`.
///
/// # Errors
/// An `x` that is no whole number of rows.
pub fn rms_norm<T: Element, W: Element>(x: &[T], weight: &[W], eps: f32) -> Result<Vec<f64>> {
    if weight.is_empty() || !x.len().is_multiple_of(weight.len()) {
        return Err(Error::invalid(
            "rms_norm",
            "x",
            format_args!("rows of {} features", weight.len()),
            x.len(),
        ));
    }
    let mut y = Vec::new();
    for row in x.chunks(weight.len()) {
        let sum: f64 = row.iter().map(|x| (x.to_f32() as f64).powi(2)).sum();
        let root = (sum / weight.len() as f64 + eps as f64).sqrt();
        y.extend(row.iter().zip(weight).map(|(x, w)| x.to_f32() as f64 / root * w.to_f32() as f64));
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eps_stands_inside_the_root() {
        assert_eq!(rms_norm(&[3.0f32, 4.0], &[1.0f32, 2.0], 12.5).unwrap(), [3.0 / 5.0, 8.0 / 5.0]);
        assert_eq!(rms_norm(&[0.0f32; 4], &[1.0f32; 2], 1e-6).unwrap(), [0.0; 4]);
        assert!(rms_norm(&[0.0f32; 3], &[1.0f32; 2], 1e-6).is_err());
    }
}
