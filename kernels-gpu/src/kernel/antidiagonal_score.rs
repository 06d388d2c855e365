//! Anti-diagonal scores.

use super::{Dtype, Kernel};
use crate::tile_size::{ANTIDIAGONAL_SCORE, AntidiagonalTile};

/// A kernel of anti-diagonal scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AntidiagonalKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the queries and keys.
    pub dtype: Dtype,
    /// Groups of a block: tokens of a block over tokens of a group.
    pub groups_per_block: u32,
    /// What a CTA works on.
    pub tile: AntidiagonalTile,
}

const fn score(name: &'static str, dtype: Dtype, groups_per_block: u32) -> AntidiagonalKernel {
    let tile = ANTIDIAGONAL_SCORE;
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    AntidiagonalKernel { kernel, dtype, groups_per_block, tile }
}

pub(super) const ANTIDIAGONAL_SCORES: [AntidiagonalKernel; 8] = [
    score("antidiagonal_score_bf16_g4", Dtype::Bf16, 4),
    score("antidiagonal_score_bf16_g8", Dtype::Bf16, 8),
    score("antidiagonal_score_bf16_g16", Dtype::Bf16, 16),
    score("antidiagonal_score_bf16_g32", Dtype::Bf16, 32),
    score("antidiagonal_score_f16_g4", Dtype::F16, 4),
    score("antidiagonal_score_f16_g8", Dtype::F16, 8),
    score("antidiagonal_score_f16_g16", Dtype::F16, 16),
    score("antidiagonal_score_f16_g32", Dtype::F16, 32),
];

/// The kernel of anti-diagonal scores for an element type and a number of groups per block. Head dims are multiples of 64,
/// strides 4, 8 or 16.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k` | `*const` 16-bit | inputs |
/// | `scores` | `*mut f32` | rows of scores, each of the visible blocks, as [`SearchSequence::blocks`] says |
/// | `scratch` | `*mut f32` | `ctas` times `slab` floats; a multiple of 16 bytes |
/// | `sequences` | `*const SearchSequence` | one entry per sequence |
/// | `tiles` | `*const AntidiagonalQTile` | one entry per tile of `tile_m` groups of queries, longest first |
/// | | [`AntidiagonalParams`](crate::params::AntidiagonalParams) | |
///
/// Grid: (`ctas`, 1, 1), any number of them. CTA `i` takes the tiles `i`, `i + ctas`, ... of the table, each entry for all
/// query heads: the number of CTAs and the order of the table decide when a tile is done, not what comes out. A CTA's
/// slab is [`AntidiagonalTile::slab_floats`] for the most groups of keys that any tile sees.
///
/// [`SearchSequence::blocks`]: crate::params::SearchSequence::blocks
pub fn antidiagonal_score(dtype: Dtype, groups_per_block: u32) -> Option<AntidiagonalKernel> {
    ANTIDIAGONAL_SCORES.into_iter().find(|k| k.dtype == dtype && k.groups_per_block == groups_per_block)
}
