//! Rotary position embedding, on the way from the projections to the queries and the KV cache.

use super::{Dtype, Kernel};
use crate::tile_size::ROPE_THREADS;

/// What a thread moves at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePath {
    /// Two pieces of 8 features, which turn with one another; `rotary_dim` is a multiple of 16.
    HalfSplit,
    /// A piece of 8 features, whose neighbours turn with one another; `rotary_dim` is a multiple of 8.
    Interleaved,
    /// Two features, by either rule: half of any other `rotary_dim` is no whole number of pieces.
    Pairs,
}

/// A kernel that rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RopeKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of all tensors but the table.
    pub dtype: Dtype,
    /// What a thread moves at a time.
    pub path: RopePath,
}

const fn rotate(name: &'static str, dtype: Dtype, path: RopePath) -> RopeKernel {
    let min_ctas_per_sm = if let RopePath::Pairs = path { 12 } else { 6 };
    RopeKernel {
        kernel: Kernel { name, threads: ROPE_THREADS, min_ctas_per_sm, dynamic_smem_bytes: 0 },
        dtype,
        path,
    }
}

pub(super) const ROPE: [RopeKernel; 6] = [
    rotate("rope_bf16_half_split", Dtype::Bf16, RopePath::HalfSplit),
    rotate("rope_bf16_interleaved", Dtype::Bf16, RopePath::Interleaved),
    rotate("rope_bf16_pairs", Dtype::Bf16, RopePath::Pairs),
    rotate("rope_f16_half_split", Dtype::F16, RopePath::HalfSplit),
    rotate("rope_f16_interleaved", Dtype::F16, RopePath::Interleaved),
    rotate("rope_f16_pairs", Dtype::F16, RopePath::Pairs),
];

impl RopePath {
    /// The widest accesses that a rotation allows.
    pub const fn new(interleaved: bool, rotary_dim: u32) -> Self {
        match interleaved {
            true if rotary_dim.is_multiple_of(8) => Self::Interleaved,
            false if rotary_dim.is_multiple_of(16) => Self::HalfSplit,
            _ => Self::Pairs,
        }
    }

    /// Units of a head, each the work of a thread.
    pub const fn units(self, head_dim: u32) -> u32 {
        match self {
            Self::HalfSplit => head_dim.div_ceil(16),
            Self::Interleaved => head_dim / 8,
            Self::Pairs => head_dim / 2,
        }
    }
}

/// The kernel that rotates queries and keys of fused projections, and puts keys and values into a cache.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `qkv` | `*const` 16-bit | `[rows, num_heads + 2 * num_heads_k, head_dim]`: queries, keys, values |
/// | `position_ids` | `*const u32` | `[rows]`: rows of the table |
/// | `slot` | `*const u32`, nullable | where row 0 goes in the cache; the number in the struct if there is none |
/// | `cos_sin` | `*const f32` | `[positions, rotary_dim]`: `rotary_dim / 2` cosines, then as many sines |
/// | `q` | `*mut` 16-bit | `[rows, num_heads, head_dim]` |
/// | `k_cache`, `v_cache` | `*mut` 16-bit | `[capacity, num_heads_k, head_dim]` |
/// | | [`RopeParams`](crate::params::RopeParams) | |
///
/// Grid: (rows; tiles). With [`RopePath::Pairs`] a tile is [`ROPE_THREADS`] units of the row, heads one behind the other.
/// Otherwise it is `heads_per_thread` times as many whole heads as a CTA has threads for.
///
/// A position beyond the table turns features into NaN. A row whose place lies beyond the cache leaves no keys and values.
pub fn rope(dtype: Dtype, path: RopePath) -> Option<RopeKernel> {
    ROPE.into_iter().find(|k| k.dtype == dtype && k.path == path)
}
