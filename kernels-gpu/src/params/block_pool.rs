//! Mean pooling of blocks of tokens.

use super::{Params, Strides};

params! {
    /// The last parameter of `block_pool`.
    BlockPoolParams, 24 {
        /// Tokens, `[tokens, heads, head_dim]`.
        x: Strides,
        /// Heads.
        heads: u32,
        /// Tokens of a block, at least 1.
        block: u32,
    }

    /// A sequence as `block_pool` sees it: an entry of its table.
    PoolSequence, 12 {
        /// The first token, on the token axis.
        start: u32,
        /// Tokens.
        len: u32,
        /// Blocks of the sequences before, of one head.
        first_block: u32,
    }
}
