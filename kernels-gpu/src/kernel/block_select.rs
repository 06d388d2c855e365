//! Block selection by coverage.

use super::Kernel;
use crate::tile_size::{
    BLOCK_SELECT_CTA_WARPS, BLOCK_SELECT_ROWS, BLOCK_SELECT_WARP_BLOCKS, SELECT_SUM_SMEM_BYTES, WARP,
};

/// A kernel of block selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSelectKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Query blocks that a CTA decides.
    pub rows: u32,
    /// The most key blocks of a sequence.
    pub max_n_blocks: u32,
}

/// Those for shorter rows first.
pub(super) const BLOCK_SELECT: [BlockSelectKernel; 2] = [
    BlockSelectKernel {
        kernel: Kernel {
            name: "block_select_warp",
            threads: BLOCK_SELECT_ROWS * WARP,
            min_ctas_per_sm: 3,
            dynamic_smem_bytes: 0,
        },
        rows: BLOCK_SELECT_ROWS,
        max_n_blocks: BLOCK_SELECT_WARP_BLOCKS,
    },
    BlockSelectKernel {
        kernel: Kernel {
            name: "block_select_cta",
            threads: BLOCK_SELECT_CTA_WARPS * WARP,
            min_ctas_per_sm: 3,
            dynamic_smem_bytes: SELECT_SUM_SMEM_BYTES,
        },
        rows: 1,
        max_n_blocks: u32::MAX,
    },
];

/// The kernel of block selection for sequences of up to so many key blocks.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `scores` | `*const f32` | rows of block scores, as [`SearchSequence::blocks`] says |
/// | `sequences` | `*const SearchSequence` | one entry per sequence |
/// | `thresholds` | `*const f32` | `[query heads]`: shares to cover, from 0 to 1 |
/// | `bits` | `*mut u32` | `[rows of the block mask, words]`: bit `i` of word `w` says that key block `32 w + i` is kept |
/// | `counts` | `*mut u32` | `[rows of the block mask]`: blocks kept |
/// | | [`BlockSelectParams`](crate::params::BlockSelectParams) | |
///
/// Grid: (the most query blocks of a sequence over `rows`, rounded up, query heads, sequences). `words` is the most key
/// blocks of a sequence over 32, rounded up; all are written. Scores that are no positive numbers count as 0; those of a row
/// add up to less than 2^24. With `packed_causal` a row of scores has the blocks that the causal mask leaves visible, as
/// [`BlockGrid`](crate::block_grid::BlockGrid) counts them; without, all key blocks of its sequence.
///
/// [`SearchSequence::blocks`]: crate::params::SearchSequence::blocks
pub fn block_select(max_n_blocks: u32) -> BlockSelectKernel {
    if max_n_blocks <= BLOCK_SELECT[0].max_n_blocks { BLOCK_SELECT[0] } else { BLOCK_SELECT[1] }
}
