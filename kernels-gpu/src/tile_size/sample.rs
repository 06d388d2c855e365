//! A random token of a distribution.

use super::{SELECT_BINS, SELECT_SCRATCH_BYTES, SELECT_SUM_SMEM_BYTES, WARP};

/// Warps of a CTA.
pub const SAMPLE_WARPS: u32 = 32;

/// Logits of a row that a CTA looks at, 4 per thread and all under way together: 32 CTAs for a vocabulary of 128 K.
pub const SAMPLE_SLICE: u32 = 4096;

/// The most slices of a row: one per thread of a CTA, which adds them up.
pub const SAMPLE_SLICES: u32 = SAMPLE_WARPS * WARP;

/// Rows that are drawn at a time: the workspace holds so many.
pub const SAMPLE_ROWS: u32 = 8;

/// Levels of a histogram of weights.
pub const SAMPLE_LEVELS: u32 = SELECT_BINS;

/// Levels from a weight to its half. All levels cover 42 halvings, more than a weight in fixed point has.
pub const SAMPLE_LEVELS_PER_OCTAVE: u32 = 48;

/// Tokens that a list of survivors has room for.
pub const SAMPLE_SURVIVORS: u32 = 8192;

/// Shared memory of a histogram: per level a count and a sum in two halves, behind what warps tell one another.
pub const SAMPLE_HISTOGRAM_SMEM_BYTES: u32 = SELECT_SCRATCH_BYTES + SAMPLE_LEVELS * 12;

/// Shared memory of a cut: that of a selection by sum.
pub const SAMPLE_CUT_SMEM_BYTES: u32 = SELECT_SUM_SMEM_BYTES;

/// Shared memory of a draw: a sum for each warp, and what was found.
pub const SAMPLE_DRAW_SMEM_BYTES: u32 = SAMPLE_WARPS * 8 + 16;

const _: () = assert!(SAMPLE_WARPS == WARP, "one lane adds up the sum of each warp");
