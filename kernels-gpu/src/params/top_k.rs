//! The largest entries of rows.

use super::Params;

params! {
    /// The last parameter of `top_k`.
    TopKParams, 16 {
        /// Scores from a row to the next.
        row_stride: u64,
        /// Scores of a row, below 2^30.
        n: u32,
        /// Indices to keep of each row, at most `n`.
        k: u32,
    }

    /// The last parameter of `top_k_tokens`.
    TokenTopKParams, 16 {
        /// Rows of a sequence.
        num_heads: u32,
        /// Indices to keep of each row, and room for them in a list.
        k: u32,
        /// So many entries from the first on are taken before all others.
        forced: u32,
        /// 1 for lists from the largest index to the smallest, 0 from the smallest.
        descending: u32,
    }
}
