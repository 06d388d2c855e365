//! Linear layers.

use lacuna::Element;
use lacuna::cpu::gemm::{PackedWeights, matmul};

use crate::Result;

/// `y = x W^T + b`, with `W` `[out_features, in_features]`.
pub(crate) struct Linear<T: Element> {
    weight: PackedWeights<T>,
    bias: Option<Vec<T>>,
}

impl<T: Element> Linear<T> {
    /// Packs a row-major `weight` `[out_features, in_features]`; `bias` `[out_features]` where the layer has one.
    pub fn new(weight: &[T], bias: Option<Vec<T>>, in_features: usize) -> Result<Self> {
        Ok(Self { weight: PackedWeights::new(weight, weight.len() / in_features, in_features)?, bias })
    }

    /// `out` `[rows, out_features]` from `x` `[rows, in_features]`; accumulated in `f32` and not rounded.
    pub fn forward(&self, x: &[T], out: &mut [f32]) -> Result<()> {
        matmul(x, &self.weight, out)?;
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(o, b)| *o += b.to_f32());
            }
        }
        Ok(())
    }
}
