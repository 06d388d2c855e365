//! Selections: top-k and block selection.

/// Warps of a CTA that selects from long rows: few rows are to keep a GPU busy.
pub const SELECT_WARPS: u32 = 32;

/// Bins of a radix selection: 11 bits of a key at a time.
pub const SELECT_BINS: u32 = 1 << 11;

/// Bytes of shared memory in which the warps of a selection tell one another what they found.
pub const SELECT_SCRATCH_BYTES: u32 = 640;

/// Shared memory of a selection by count, and of the list of what is kept.
pub const SELECT_COUNT_SMEM_BYTES: u32 = SELECT_SCRATCH_BYTES + SELECT_BINS * 4;

/// Shared memory of a selection by sum, 64 bits per bin beside the count; enough for the others.
pub const SELECT_SUM_SMEM_BYTES: u32 = SELECT_SCRATCH_BYTES + SELECT_BINS * 12;

/// The most key blocks of a row that block selection keeps in the registers of a warp.
pub const BLOCK_SELECT_WARP_BLOCKS: u32 = 1024;

/// Rows of that size that a CTA decides, one per warp.
pub const BLOCK_SELECT_ROWS: u32 = 4;

/// Warps of a CTA that decides one longer row: there are many rows.
pub const BLOCK_SELECT_CTA_WARPS: u32 = 8;
