//! Attention over the key blocks that a mask lists.

use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Element, Result, TensorView};

use crate::masked_attention::{AttentionOutput, masked_attention};

/// Softmax attention in which a row sees the keys of the blocks that `block_mask` lists for its query block. The causal
/// mask applies key by key within them; the last block ends with the sequence.
///
/// # Errors
/// A mask that was not made for `shape`, and as [`masked_attention`].
pub fn block_sparse_attention<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    v: &TensorView<T>,
    block_mask: &BlockMask,
    options: &AttentionOptions,
) -> Result<AttentionOutput> {
    block_mask.check("block_sparse_attention", shape)?;
    masked_attention(shape, q, k, v, options, |b, h, i, j| {
        block_mask.row(b, h, i / block_mask.block_m()).contains(&((j / block_mask.block_n()) as u32))
    })
}
