//! The probe of the pattern searches.

use super::{Params, SoftmaxScale, Strides};

params! {
    /// The last parameter of both passes of `probe`.
    ProbeParams, 80 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[total_k, num_heads_k, head_dim]`.
        k: Strides,
        /// Query heads.
        num_heads: u32,
        /// Query heads that read one KV head.
        group: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`, and [`AttentionParams::head_step`](super::AttentionParams::head_step).
        head_step: u32,
        /// Query rows of the probe, at most [`PROBE_ROWS`](crate::tile_size::PROBE_ROWS); fewer where a sequence has
        /// fewer queries.
        last_q: u32,
        /// Chunks that the workspace has room for: at least [`probe_chunks`](crate::tile_size::probe_chunks) of every
        /// sequence.
        max_chunks: u32,
        /// 1 to round scaled queries, and logits, to the element type; then `softmax_scale` is that of a factor of 1.
        round: u32,
        /// Factor of the queries when `round` is 1.
        query_scale: f32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}
