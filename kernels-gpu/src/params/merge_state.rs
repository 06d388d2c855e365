//! Merging states.

use super::{Params, Strides};

params! {
    /// The last parameter of `merge_state`. Strides are in elements.
    MergeParams, 72 {
        /// Parts: within one of them.
        part: Strides,
        /// From a part to the next.
        part_step: u64,
        /// Outputs, `[total_q, num_heads, head_dim]`.
        out: Strides,
        /// The parts' LSE `[num_heads, total_q]`: from a head to the next.
        part_lse_head: u64,
        /// From the LSE of a part to that of the next.
        part_lse_step: u64,
        /// Tokens.
        total_q: u32,
        /// Heads.
        num_heads: u32,
        /// Parts; 0 gives empty results.
        num_parts: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}
