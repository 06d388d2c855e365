//! From a bitmask of blocks to lists.

use super::Kernel;
use crate::tile_size::{BLOCK_MASK_FILL_ROWS, BLOCK_MASK_SCAN_THREADS, WARP};

/// A table's entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockMaskKernel {
    pub(super) kernel: Kernel,
}

const SCAN: Kernel = Kernel {
    name: "block_mask_scan",
    threads: BLOCK_MASK_SCAN_THREADS,
    min_ctas_per_sm: 1,
    dynamic_smem_bytes: BLOCK_MASK_SCAN_THREADS / WARP * 4,
};

const FILL: Kernel = Kernel {
    name: "block_mask_fill",
    threads: BLOCK_MASK_FILL_ROWS * WARP,
    min_ctas_per_sm: 8,
    dynamic_smem_bytes: 0,
};

pub(super) const BLOCK_MASK: [BlockMaskKernel; 2] =
    [BlockMaskKernel { kernel: SCAN }, BlockMaskKernel { kernel: FILL }];

/// The kernel that adds up the blocks of the rows.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `counts` | `*const u32` | `[rows]`: bits set in each row of the bitmask |
/// | `indptr` | `*mut u32` | `[rows + 1]`: sums of the counts before each row, then of all |
/// | | [`BlockMaskParams`](crate::params::BlockMaskParams) | |
///
/// Grid: 1. There are less than 2^31 rows, and the counts add up to less than 2^32.
pub fn block_mask_scan() -> Kernel {
    SCAN
}

/// The kernel that lists the bits of every row, ascending.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `bitmask` | `*const u32` | `[rows, words]`: bit `i` of word `w` stands for key block `32 w + i` |
/// | `indptr` | `*const u32` | as [`block_mask_scan`] left it |
/// | `indices` | `*mut u32` | as many as the last entry of `indptr` says |
/// | | [`BlockMaskParams`](crate::params::BlockMaskParams) | |
///
/// Grid: rows over [`BLOCK_MASK_FILL_ROWS`], rounded up.
pub fn block_mask_fill() -> Kernel {
    FILL
}
