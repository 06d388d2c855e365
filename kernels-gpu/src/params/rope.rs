//! Rotary position embedding, on the way from the projections to the queries and the KV cache.

use super::{Params, Strides};

params! {
    /// The last parameter of `rope`.
    RopeParams, 104 {
        /// Bytes from a row of the projections to the next, a multiple of 16.
        qkv_row_bytes: u64,
        /// Bytes from a row of the table to the next; a multiple of 16, but for pairs of features.
        cos_sin_row_bytes: u64,
        /// Queries, `[rows, num_heads, head_dim]`, in elements.
        q: Strides,
        /// Keys, `[capacity, num_heads_k, head_dim]`, in elements.
        k: Strides,
        /// Values, likewise.
        v: Strides,
        /// Rows of the table.
        positions: u32,
        /// Where row 0 goes in the cache, unless there is a pointer to it.
        slot: u32,
        /// Tokens that the cache has room for; rows that would go beyond it go nowhere.
        capacity: u32,
        /// Heads of queries.
        num_heads: u32,
        /// Heads of keys, and of values.
        num_heads_k: u32,
        /// Features of a head, a multiple of 8.
        head_dim: u32,
        /// Features of a head that turn, an even number of at most `head_dim`.
        rotary_dim: u32,
        /// Whether pairs of features that turn lie side by side; for pairs of features.
        interleaved: u32,
        /// Heads that a CTA has threads for, unless for pairs of features.
        side_by_side: u32,
        /// Heads of a thread, from 1 to [`ROPE_HEADS`](crate::tile_size::ROPE_HEADS), unless for pairs of features.
        heads_per_thread: u32,
    }
}
