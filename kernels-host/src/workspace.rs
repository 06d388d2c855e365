//! Device memory that a plan keeps between its kernels.

use lacuna_core::{DecodeShape, Error, Result};
use lacuna_kernels_gpu::tile_size::max_decode_splits;

use crate::buffer::DeviceBuffer;
use crate::context::Context;

/// Partial results of decode attention.
#[derive(Debug)]
pub(crate) struct DecodeWorkspace {
    /// `[batch, max_splits, num_heads_k, rows, head_dim]`.
    pub(crate) out: DeviceBuffer<f32>,
    /// `[batch, max_splits, num_heads_k, rows]`.
    pub(crate) lse: DeviceBuffer<f32>,
}

impl DecodeWorkspace {
    pub(crate) fn new(context: &Context, extents: [usize; 4], head_dim: usize) -> Result<Self> {
        let rows = product(&extents)?;
        Ok(Self {
            out: DeviceBuffer::uninit(
                context,
                product(&[rows, head_dim])?,
                "decode_attention partial outputs",
            )?,
            lse: DeviceBuffer::uninit(context, rows, "decode_attention partial LSEs")?,
        })
    }
}

/// Bytes of device memory that a plan of [`decode_attention`](crate::decode_attention::Plan) allocates for the partial
/// results of its splits.
///
/// # Errors
/// [`Error::TooLarge`] for sizes that overflow.
pub fn decode_attention_workspace_bytes(sizes: &DecodeShape) -> Result<usize> {
    let DecodeShape { batch, max_seqlen_q, num_heads, head_dim, max_seqlen_k, .. } = *sizes;
    let splits = u32::try_from(max_seqlen_k).map_or(usize::MAX, |n| max_decode_splits(n) as usize);
    let rows = product(&[batch, splits, max_seqlen_q, num_heads])?;
    product(&[rows, head_dim.saturating_add(1), size_of::<f32>()])
}

fn product(factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    product.ok_or_else(|| Error::TooLarge {
        op: "decode_attention",
        what: "the workspace",
        limit: usize::MAX as u64,
        got: format!("{factors:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        // 2 sequences, 8192 keys in splits of 256, 32 heads: 2 x 32 x 32 rows of 129 floats.
        let bytes = |batch, max_seqlen_q, num_heads, head_dim, max_seqlen_k| {
            let sizes =
                DecodeShape { batch, max_seqlen_q, num_heads, num_heads_k: 1, head_dim, max_seqlen_k };
            decode_attention_workspace_bytes(&sizes)
        };
        assert_eq!(bytes(2, 1, 32, 128, 8192), Ok(2 * 32 * 32 * 129 * 4));
        for huge in [usize::MAX, usize::MAX / 2, 1 << 40] {
            assert!(bytes(huge, 64, huge, 128, 1 << 20).is_err());
        }
        assert!(bytes(2, 1, 1, 64, usize::MAX).is_err());
        assert_eq!(bytes(0, 1, 1, 64, 100), Ok(0));
    }
}
