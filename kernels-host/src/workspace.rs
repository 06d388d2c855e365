//! Device memory that a plan keeps between its kernels.

use lacuna_core::{Error, Result};
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
pub fn decode_attention_workspace_bytes(
    batch: usize,
    seqlen_q: usize,
    num_heads: usize,
    head_dim: usize,
    max_seqlen_k: usize,
) -> Result<usize> {
    let splits = u32::try_from(max_seqlen_k).map_or(usize::MAX, |n| max_decode_splits(n) as usize);
    let rows = product(&[batch, splits, seqlen_q, num_heads])?;
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
        assert_eq!(decode_attention_workspace_bytes(2, 1, 32, 128, 8192), Ok(2 * 32 * 32 * 129 * 4));
        for huge in [usize::MAX, usize::MAX / 2, 1 << 40] {
            assert!(decode_attention_workspace_bytes(huge, 64, huge, 128, 1 << 20).is_err());
        }
        assert!(decode_attention_workspace_bytes(2, 1, 1, 64, usize::MAX).is_err());
        assert_eq!(decode_attention_workspace_bytes(0, 1, 1, 64, 100), Ok(0));
    }
}
