//! Decode attention.

use super::{Params, SoftmaxScale, Strides};

params! {
    /// The last parameter of `decode_attention` and of the merge of its splits.
    DecodeParams, 112 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[_, num_heads_k, head_dim]`.
        k: Strides,
        /// Values, `[_, num_heads_k, head_dim]`.
        v: Strides,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// Query tokens over the whole batch: a row of `softmax_lse`.
        total_q: u32,
        /// KV heads.
        num_heads_k: u32,
        /// Query heads that read one KV head.
        group: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`, and [`AttentionParams::head_step`](super::AttentionParams::head_step).
        head_step: u32,
        /// 1 for the bottom-right aligned causal mask, 0 for none.
        causal: u32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
        /// Splits that the workspace has room for: at least [`crate::tile_size::decode_splits`] of every sequence.
        max_splits: u32,
        /// Tiles of the kernel's `tile_m` that cover the packed rows of the longest query.
        row_tiles: u32,
        /// Query rows that the workspace has room for: at least those of every sequence.
        max_seqlen_q: u32,
    }
}
