//! A random token of a distribution.

use super::Params;

params! {
    /// The last parameter of the kernels of `sample`.
    SampleParams, 40 {
        /// Logits from a row to the next.
        row_stride: u64,
        /// The least weight that a token is drawn with.
        least: u64,
        /// Logits of a row; from 1 to 2^22.
        vocab_size: u32,
        /// Slices of [`SAMPLE_SLICE`](crate::tile_size::SAMPLE_SLICE) logits of a row; at most
        /// [`SAMPLE_SLICES`](crate::tile_size::SAMPLE_SLICES).
        slices: u32,
        /// log2(e) / temperature.
        scale_log2: f32,
        /// So many tokens are kept, fewer than there are; 0: all.
        top_k: u32,
        /// The likeliest tokens are kept that together have this share of the weight; 1: all.
        top_p: f32,
        /// Counters.
        counters: u32,
    }
}
