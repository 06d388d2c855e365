//! The gate of the Llama MLP.

use lacuna_core::{Element, Error, Result};

/// `y = silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`, element by element.
///
/// # Errors
/// Slices of different lengths.
pub fn silu_mul<T: Element>(gate: &[T], up: &[T]) -> Result<Vec<f64>> {
    if gate.len() != up.len() {
        return Err(Error::shape("silu_mul", "up", [gate.len()], [up.len()]));
    }
    let silu = |x: f64| x / (1.0 + (-x).exp());
    Ok(gate.iter().zip(up).map(|(g, u)| silu(g.to_f32() as f64) * u.to_f32() as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_far_ends() {
        let y = silu_mul(&[0.0f32, 1.0, -1.0, 100.0, -1000.0], &[5.0, 2.0, 2.0, 3.0, 3.0]).unwrap();
        let want = [0.0, 2.0 * 0.7310585786300049, -2.0 * 0.2689414213699951, 300.0, 0.0];
        assert!(y.iter().zip(want).all(|(y, w)| (y - w).abs() < 1e-12), "{y:?}");
        assert!(silu_mul(&[0.0f32], &[]).is_err());
    }
}
