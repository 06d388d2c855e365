//! The largest entries of rows.

use super::Kernel;
use crate::tile_size::{SELECT_COUNT_SMEM_BYTES, SELECT_WARPS, WARP};

/// A kernel of top-k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopKKernel {
    /// What to launch.
    pub kernel: Kernel,
}

const fn select(name: &'static str) -> TopKKernel {
    let threads = SELECT_WARPS * WARP;
    let dynamic_smem_bytes = SELECT_COUNT_SMEM_BYTES;
    TopKKernel { kernel: Kernel { name, threads, min_ctas_per_sm: 1, dynamic_smem_bytes } }
}

pub(super) const TOP_K: [TopKKernel; 2] = [select("top_k"), select("top_k_tokens")];

/// The kernel that keeps the largest entries of rows of one length.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `scores` | `*const f32` | rows, at the strides of the parameters |
/// | `forced` | `*const u32`, nullable | a bit for each entry of a row, those to take first: bit `i % 32` of word `i / 32` |
/// | `indices` | `*mut u32` | `[rows, k]`, ascending |
/// | | [`TopKParams`](crate::params::TopKParams) | |
///
/// Grid: rows.
pub fn top_k() -> TopKKernel {
    TOP_K[0]
}

/// The kernel that keeps the largest token scores of every query head.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `scores` | `*const f32` | `[sequence][query head][k_len]`: those of a head begin at `num_heads * k_start + head * k_len` |
/// | `sequences` | `*const SearchSequence` | one entry per sequence |
/// | `indices` | `*mut u32` | `[sequence][query head][k]` |
/// | `counts` | `*mut u32` | `[sequence][query head]`: how many indices a list holds, the smaller of `k` and `k_len` |
/// | | [`TokenTopKParams`](crate::params::TokenTopKParams) | |
///
/// Grid: (1, query heads, sequences). What lies behind the indices of a list is left as it was.
pub fn top_k_tokens() -> TopKKernel {
    TOP_K[1]
}
