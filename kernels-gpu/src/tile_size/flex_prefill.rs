//! FlexPrefill, and the lists of what a search keeps.

use super::{SELECT_COUNT_SMEM_BYTES, WARP};

/// Threads of the CTA that scans the row counts of a block mask: all that fit, for it is alone.
pub const BLOCK_MASK_SCAN_THREADS: u32 = 1024;

/// Rows of a block mask that a CTA lists: one per warp.
pub const BLOCK_MASK_FILL_ROWS: u32 = 4;

/// Threads of the CTAs of FlexPrefill that read all token scores of a head, or its map: all that fit, for there are few.
pub const FLEX_SCAN_THREADS: u32 = 1024;

/// Threads of a CTA of FlexPrefill that decides for a head.
pub const FLEX_DECIDE_THREADS: u32 = 512;

/// Dynamic shared memory of such a CTA: partial sums of the mean query, later a selection; the mean query; a place per
/// warp.
pub const fn flex_decide_smem_bytes(head_dim: u32) -> u32 {
    let warps = FLEX_DECIDE_THREADS / WARP;
    assert!(warps * head_dim * 4 <= SELECT_COUNT_SMEM_BYTES);
    SELECT_COUNT_SMEM_BYTES + head_dim * 4 + warps * 4
}

/// Query blocks of a CTA of FlexPrefill's map.
pub const FLEX_MAP_ROWS: u32 = 32;

/// Key blocks of a step.
pub const FLEX_MAP_COLUMNS: u32 = 64;

/// Threads of such a CTA, each with 4 x 4 entries of a step.
pub const FLEX_MAP_THREADS: u32 = FLEX_MAP_ROWS * FLEX_MAP_COLUMNS / 16;

/// Floats from a row of mean queries or keys in shared memory to the next: 4 more than needed let 8 rows at one column
/// lie in different banks.
pub const fn flex_map_stride(head_dim: u32) -> u32 {
    head_dim + 4
}

/// Dynamic shared memory of such a CTA: mean queries, and mean keys of a step.
pub const fn flex_map_smem_bytes(head_dim: u32) -> u32 {
    (FLEX_MAP_ROWS + FLEX_MAP_COLUMNS) * flex_map_stride(head_dim) * 4
}

/// Rows of the bitmask of a CTA of FlexPrefill: one per warp.
pub const FLEX_ROWS: u32 = 4;
