//! From a bitmask of blocks to lists.

use super::Params;

params! {
    /// The last parameter of both kernels of `block_mask`.
    BlockMaskParams, 8 {
        /// Rows of the mask.
        rows: u32,
        /// Words of a row of the bitmask.
        words: u32,
    }
}
