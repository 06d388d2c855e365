//! The likeliest token.

use super::Params;

params! {
    /// The last parameter of `argmax`.
    ArgmaxParams, 24 {
        /// Logits from a row to the next.
        row_stride: u64,
        /// Logits of a row; from 1 to 2^30 - 1.
        vocab_size: u32,
        /// Logits that a CTA looks at.
        slice: u32,
        /// Slices of a row.
        slices: u32,
        /// Counters.
        counters: u32,
    }
}
