//! Dense and block-sparse attention.

use super::{Params, SoftmaxScale, Strides};

params! {
    /// The last parameter of `dense_attention` and `block_sparse_attention`.
    AttentionParams, 96 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[total_k, num_heads_k, head_dim]`.
        k: Strides,
        /// Values, `[total_k, num_heads_k, head_dim]`.
        v: Strides,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// Query tokens over the whole batch: a row of `softmax_lse`.
        total_q: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`. `(group, 1)` for heads that share a KV head with their neighbours, `(1, num_heads_k)` for
        /// interleaved ones.
        head_step: u32,
        /// 1 for the bottom-right aligned causal mask, 0 for none.
        causal: u32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
        /// Keys of a mask block, a multiple of the kernel's `tile_n`. Dense attention takes no notice.
        block_n: u32,
    }

    /// An entry of the tile table of `dense_attention`: which rows a CTA works on, and the lengths of their sequence.
    QTile, 20 {
        /// The first query token of the sequence, on the token axis.
        q_start: u32,
        /// Query tokens of the sequence.
        q_len: u32,
        /// The first key token of the sequence, on the token axis.
        k_start: u32,
        /// Key tokens of the sequence.
        k_len: u32,
        /// The first row of the tile, counted from `q_start`; below `q_len`, a multiple of the kernel's `tile_m`.
        row: u32,
    }

    /// An entry of the tile table of `block_sparse_attention`.
    SparseQTile, 28 {
        /// The first query token of the sequence, on the token axis.
        q_start: u32,
        /// Query tokens of the sequence.
        q_len: u32,
        /// The first key token of the sequence, on the token axis.
        k_start: u32,
        /// Key tokens of the sequence.
        k_len: u32,
        /// The first row of the tile, counted from `q_start`; below `q_len`, a multiple of the kernel's `tile_m`.
        row: u32,
        /// The row of the block mask that holds the tile's list for query head 0.
        mask_row: u32,
        /// From there to the row of the next head: the query blocks of the sequence.
        mask_row_step: u32,
    }
}
