//! Dense attention: every row sees all keys, or all that the causal mask leaves.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result, TensorView};

use crate::masked_attention::{AttentionOutput, masked_attention};

/// Dense softmax attention over a ragged batch: `softmax(scale * q k^T) v`, causal bottom-right aligned unless
/// `options` say otherwise.
///
/// # Errors
/// As [`masked_attention`].
pub fn dense_attention<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    v: &TensorView<T>,
    options: &AttentionOptions,
) -> Result<AttentionOutput> {
    masked_attention(shape, q, k, v, options, |_, _, _, _| true)
}
