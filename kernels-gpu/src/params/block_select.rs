//! Block selection by coverage.

use super::Params;

params! {
    /// The last parameter of `block_select`. Fields that answer a question are 1 for yes and 0 for no.
    BlockSelectParams, 40 {
        /// Blocks have `1 << block_shift` tokens.
        block_shift: u32,
        /// Words of a row of the bitmask.
        words: u32,
        /// Query rows that one pass of the published code handles, a multiple of the block, at most 2^30; 0 for the rule
        /// that it has for the length.
        chunk: u32,
        /// Whether the bottom-right aligned causal mask holds.
        causal: u32,
        /// Whether rows of scores hold the blocks that the causal mask leaves visible, or all.
        packed_causal: u32,
        /// Whether the first block is kept in every row.
        keep_sink: u32,
        /// Whether the row's own blocks are kept.
        keep_recent: u32,
        /// `XAttentionCompat::first_chunk_quirk`.
        first_chunk_quirk: u32,
        /// `XAttentionCompat::keep_sink_row_bug`.
        keep_sink_row_bug: u32,
        /// `XAttentionCompat::chunk_align_past`.
        chunk_align_past: u32,
    }
}
