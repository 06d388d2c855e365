//! What all pattern searches share.

use super::Params;

params! {
    /// A sequence as a pattern search sees it: an entry of its table of sequences.
    SearchSequence, 40 {
        /// Where the visible blocks of query head 0 begin, in lists that hold them row by row
        /// ([`BlockGrid::offset`](crate::block_grid::BlockGrid::offset)), head by head.
        blocks: u64,
        /// From there to those of the next head.
        blocks_step: u64,
        /// The first query token, on the token axis.
        q_start: u32,
        /// Query tokens.
        q_len: u32,
        /// The first key token, on the token axis.
        k_start: u32,
        /// Key tokens.
        k_len: u32,
        /// The row of the block mask for query head 0 and query block 0.
        mask_row: u32,
        /// From there to the row of the next head: the query blocks of the sequence.
        mask_row_step: u32,
    }
}
