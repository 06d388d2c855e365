//! FlexPrefill's pattern search.

use super::{Dtype, Kernel};
use crate::tile_size::{
    FLEX_DECIDE_THREADS, FLEX_MAP_THREADS, FLEX_ROWS, FLEX_SCAN_THREADS, SELECT_SUM_SMEM_BYTES, WARP,
    flex_decide_smem_bytes, flex_map_smem_bytes,
};

/// A kernel of FlexPrefill that reads queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlexPrefillKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the queries.
    pub dtype: Dtype,
    /// Features of a head.
    pub head_dim: u32,
}

/// A table's entry for a kernel that reads none.
pub(super) struct Typeless {
    pub(super) kernel: Kernel,
}

const fn kernel(name: &'static str, threads: u32, min_ctas_per_sm: u32, dynamic_smem_bytes: u32) -> Kernel {
    Kernel { name, threads, min_ctas_per_sm, dynamic_smem_bytes }
}

const fn decide(name: &'static str, dtype: Dtype, head_dim: u32) -> FlexPrefillKernel {
    let kernel = kernel(name, FLEX_DECIDE_THREADS, 2, flex_decide_smem_bytes(head_dim));
    FlexPrefillKernel { kernel, dtype, head_dim }
}

const fn map(name: &'static str, dtype: Dtype, head_dim: u32) -> FlexPrefillKernel {
    let kernel = kernel(name, FLEX_MAP_THREADS, 3, flex_map_smem_bytes(head_dim));
    FlexPrefillKernel { kernel, dtype, head_dim }
}

pub(super) const DECIDE: [FlexPrefillKernel; 4] = [
    decide("flex_prefill_bf16_d64_decide", Dtype::Bf16, 64),
    decide("flex_prefill_bf16_d128_decide", Dtype::Bf16, 128),
    decide("flex_prefill_f16_d64_decide", Dtype::F16, 64),
    decide("flex_prefill_f16_d128_decide", Dtype::F16, 128),
];

pub(super) const MAP: [FlexPrefillKernel; 4] = [
    map("flex_prefill_bf16_d64_map", Dtype::Bf16, 64),
    map("flex_prefill_bf16_d128_map", Dtype::Bf16, 128),
    map("flex_prefill_f16_d64_map", Dtype::F16, 64),
    map("flex_prefill_f16_d128_map", Dtype::F16, 128),
];

const COVERAGE: Kernel = kernel("flex_prefill_coverage", FLEX_SCAN_THREADS, 1, SELECT_SUM_SMEM_BYTES);
const CUT: Kernel = kernel("flex_prefill_cut", FLEX_SCAN_THREADS, 1, SELECT_SUM_SMEM_BYTES);
const ROWS: Kernel = kernel("flex_prefill_rows", FLEX_ROWS * WARP, 8, 0);

pub(super) const TYPELESS: [Typeless; 3] =
    [Typeless { kernel: COVERAGE }, Typeless { kernel: CUT }, Typeless { kernel: ROWS }];

/// The kernel that counts the tokens whose scores cover `gamma`, and sums the scores of blocks.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `vertical`, `slash` | `*const f32` | as [`probe_sums`](super::probe_sums) leaves them |
/// | `counts` | `*mut [u32; 2]` | `[sequences, num_heads]`: descending prefix sums within `gamma`, of either |
/// | `column_sums` | `*mut f32` | per key block, the sum of `vertical` |
/// | `slash_sums` | `*mut f32` | per group of diagonals, the sum of `slash` |
/// | `sequences` | `*const SearchSequence` | one entry per sequence |
/// | `first_blocks` | `*const u32` | key blocks of the sequences before, for each of them |
/// | | [`FlexPrefillParams`](crate::params::FlexPrefillParams) | |
///
/// Everything per key block is `[sequence][query head][key block]`: that of a head begins at `num_heads * first_block +
/// head * blocks`. Grid: (2, num_heads, sequences); nothing is written for sequences that attend densely.
pub fn flex_prefill_coverage() -> Kernel {
    COVERAGE
}

/// The kernel that decides what a head keeps.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q` | `*const` 16-bit | queries |
/// | `mean_keys` | `*const f32` | as [`block_pool`](super::block_pool()) leaves them |
/// | `counts`, `column_sums`, `slash_sums` | | as [`flex_prefill_coverage`] left them |
/// | `logits` | `*mut f32` | workspace, a float per key block and query head |
/// | `columns` | `*mut u32` | a bit per key block: its column is kept |
/// | `diagonals` | `*mut u32` | a bit per group of diagonals, in descending order of their distance |
/// | `heads` | `*mut FlexHead` | `[sequences, num_heads]` |
/// | `sequences`, `first_blocks` | | as above |
/// | | [`FlexPrefillParams`](crate::params::FlexPrefillParams) | |
///
/// Bits of a head, `words = ceil(blocks / 32)` of them, begin at word `num_heads * (first_block / 32 + sequence) + head *
/// words`. Grid: (1, num_heads, sequences); of sequences that attend densely only `heads` is written.
pub fn flex_prefill_decide(dtype: Dtype, head_dim: u32) -> Option<FlexPrefillKernel> {
    DECIDE.into_iter().find(|k| k.dtype == dtype && k.head_dim == head_dim)
}

/// The kernel that maps the mean queries of query-aware heads to mean keys.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `mean_keys` | | as above |
/// | `heads` | `*const FlexHead` | as [`flex_prefill_decide`] left them |
/// | `map` | `*mut f32` | packed rows of visible blocks, each of which adds up to 1 |
/// | `sequences`, `first_blocks` | | as above |
/// | | [`FlexPrefillParams`](crate::params::FlexPrefillParams) | |
///
/// Rows lie as [`BlockGrid::offset`](crate::block_grid::BlockGrid::offset) and `SearchSequence::blocks` say. Grid: (query
/// blocks over [`FLEX_MAP_ROWS`](crate::tile_size::FLEX_MAP_ROWS), num_heads, sequences); CTAs of other heads leave at once.
pub fn flex_prefill_map(dtype: Dtype, head_dim: u32) -> Option<FlexPrefillKernel> {
    MAP.into_iter().find(|k| k.dtype == dtype && k.head_dim == head_dim)
}

/// The kernel that cuts the map of a query-aware head where it covers `gamma` of its rows, and leaves a bit for each entry.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `map` | `*mut u32` | [`flex_prefill_map`]'s; afterwards, at the place of a head's entry `i`, the bits of `32 i ..` |
/// | `heads`, `sequences`, `first_blocks` | | as there |
/// | | [`FlexPrefillParams`](crate::params::FlexPrefillParams) | |
///
/// Grid: (1, num_heads, sequences); CTAs of other heads leave at once. A head has less than 2^30 visible blocks.
pub fn flex_prefill_cut() -> Kernel {
    CUT
}

/// The kernel that puts decisions together to the bitmask of the blocks.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `columns`, `diagonals`, `heads` | | as [`flex_prefill_decide`] left them |
/// | `map` | `*const u32` | as [`flex_prefill_cut`] left it |
/// | `bitmask`, `counts` | `*mut u32` | as [`block_mask_fill`](super::block_mask_fill) and `block_mask_scan` take them |
/// | `sequences`, `first_blocks` | | as above |
/// | | [`FlexPrefillParams`](crate::params::FlexPrefillParams) | |
///
/// Grid: (query blocks over [`FLEX_ROWS`], num_heads, sequences).
pub fn flex_prefill_rows() -> Kernel {
    ROWS
}
