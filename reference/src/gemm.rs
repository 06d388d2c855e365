//! The matrix product of a linear layer.

use lacuna_core::{Element, Error, Result};

use crate::masked_attention::dot;

/// `y = x weight^T + bias`: `x` is `[tokens, in_features]`, `weight` `[out_features, in_features]` as checkpoints store it,
/// `bias` `[out_features]`, the result `[tokens, out_features]`, all contiguous.
///
/// # Errors
/// Slices whose lengths do not fit one another.
pub fn gemm<T: Element, W: Element>(
    x: &[T],
    weight: &[W],
    bias: Option<&[W]>,
    in_features: usize,
    out_features: usize,
) -> Result<Vec<f64>> {
    const OP: &str = "gemm";
    if in_features == 0 || !x.len().is_multiple_of(in_features) {
        return Err(Error::invalid(OP, "x", format_args!("rows of {in_features} features"), x.len()));
    }
    if weight.len() != out_features * in_features {
        return Err(Error::shape(OP, "weight", [out_features, in_features], [weight.len()]));
    }
    if let Some(bias) = bias.filter(|bias| bias.len() != out_features) {
        return Err(Error::shape(OP, "bias", [out_features], [bias.len()]));
    }
    let mut y = Vec::new();
    for row in x.chunks(in_features) {
        for (out, weight) in weight.chunks(in_features).enumerate() {
            y.push(dot(row, weight) + bias.map_or(0.0, |bias| bias[out].to_f32() as f64));
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_three() {
        let (x, w) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0f32, 0.0, -1.0, 2.0, 2.0, 2.0]);
        assert_eq!(gemm(&x, &w, Some(&[0.5, 0.0]), 3, 2).unwrap(), [-1.5, 12.0, -1.5, 30.0]);
        assert_eq!(gemm(&x, &w, None, 3, 2).unwrap(), [-2.0, 12.0, -2.0, 30.0]);
        assert!(gemm(&x[..5], &w, None, 3, 2).is_err());
        assert!(gemm(&x, &w[..5], None, 3, 2).is_err());
        assert!(gemm(&x, &w, Some(&[0.5]), 3, 2).is_err());
    }
}
