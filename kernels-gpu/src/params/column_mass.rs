//! Column mass.

use super::{Params, SoftmaxScale, Strides};

params! {
    /// The last parameter of `column_mass`: a window of one sequence.
    ColumnMassParams, 88 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[total_k, num_heads_k, head_dim]`.
        k: Strides,
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
        /// The first query token, on the token axis.
        q_start: u32,
        /// Query tokens.
        q_len: u32,
        /// The first key token, on the token axis.
        k_start: u32,
        /// Key tokens; no key from here on is seen.
        k_len: u32,
        /// The key up to which the first query sees, and one more; see [`crate::kernel::column_mass()`].
        first_limit: i32,
        /// From the limit of a query to that of the next: 1 for the bottom-right aligned causal mask, 0 for none.
        limit_step: u32,
        /// Factor of the logits.
        softmax_scale: SoftmaxScale,
    }
}
