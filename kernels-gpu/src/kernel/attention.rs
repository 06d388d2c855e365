//! Dense and block-sparse attention.

use super::{Dtype, Kernel};
use crate::tile_size::{self, AttentionTile};

/// An attention kernel and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of inputs and outputs.
    pub dtype: Dtype,
    /// What a CTA works on.
    pub tile: AttentionTile,
}

const fn attention(name: &'static str, dtype: Dtype, tile: Option<AttentionTile>) -> AttentionKernel {
    let tile = tile.expect("a head dim with a tile");
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    AttentionKernel { kernel, dtype, tile }
}

pub(super) const DENSE_ATTENTION: [AttentionKernel; 4] = [
    attention("dense_attention_bf16_d64", Dtype::Bf16, tile_size::dense_attention(64)),
    attention("dense_attention_bf16_d128", Dtype::Bf16, tile_size::dense_attention(128)),
    attention("dense_attention_f16_d64", Dtype::F16, tile_size::dense_attention(64)),
    attention("dense_attention_f16_d128", Dtype::F16, tile_size::dense_attention(128)),
];

/// The larger tiles first.
pub(super) const BLOCK_SPARSE_ATTENTION: [AttentionKernel; 8] = {
    use tile_size::block_sparse_attention as tile;
    [
        attention("block_sparse_attention_bf16_d64", Dtype::Bf16, tile(64, false)),
        attention("block_sparse_attention_bf16_d128", Dtype::Bf16, tile(128, false)),
        attention("block_sparse_attention_f16_d64", Dtype::F16, tile(64, false)),
        attention("block_sparse_attention_f16_d128", Dtype::F16, tile(128, false)),
        attention("block_sparse_attention_bf16_d64_64x64", Dtype::Bf16, tile(64, true)),
        attention("block_sparse_attention_bf16_d128_64x64", Dtype::Bf16, tile(128, true)),
        attention("block_sparse_attention_f16_d64_64x64", Dtype::F16, tile(64, true)),
        attention("block_sparse_attention_f16_d128_64x64", Dtype::F16, tile(128, true)),
    ]
};

/// The kernel of dense attention for an element type and head dim.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k`, `v` | `*const` 16-bit | inputs |
/// | `out` | `*mut` 16-bit | outputs |
/// | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]`, natural logarithm |
/// | `tiles` | `*const QTile` | one entry per tile of `tile_m` rows of every sequence, longest first |
/// | | [`AttentionParams`](crate::params::AttentionParams) | |
///
/// Grid: (group, number of tiles, num_heads_k). Neighbouring CTAs read the same keys and values. The order of the table
/// is free: it decides when a tile starts, not what comes out. A sequence without queries has no tile; one without keys
/// has, and gets zeros and `-inf`.
pub fn dense_attention(dtype: Dtype, head_dim: u32) -> Option<AttentionKernel> {
    DENSE_ATTENTION.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}

/// The kernel of block-sparse attention for an element type, a head dim and mask blocks of `block_m x block_n`: the one
/// with the largest tile that divides them. `None` also where a side is 0 or no multiple of 64.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k`, `v`, `out`, `softmax_lse` | | as in [`dense_attention()`] |
/// | `tiles` | `*const SparseQTile` | as there, with the tile's row in the block mask |
/// | `indptr`, `indices` | `*const u32` | the block mask in CSR form; lists ascend |
/// | | [`AttentionParams`](crate::params::AttentionParams) | `block_n` counts |
///
/// Grid as there. Rows of the mask are query blocks of `block_m` rows, a multiple of `tile_m`; several tiles may share one.
pub fn block_sparse_attention(
    dtype: Dtype,
    head_dim: u32,
    block_m: u32,
    block_n: u32,
) -> Option<AttentionKernel> {
    let divides = |tile: u32, block: u32| block > 0 && block.is_multiple_of(tile);
    BLOCK_SPARSE_ATTENTION.into_iter().find(|k| {
        (k.dtype, k.tile.head_dim) == (dtype, head_dim)
            && divides(k.tile.tile_m, block_m)
            && divides(k.tile.tile_n, block_n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_tile_that_fits_the_blocks() {
        let name = |d, m, n| block_sparse_attention(Dtype::Bf16, d, m, n).map(|k| k.kernel.name);
        assert_eq!(name(128, 128, 128), Some("block_sparse_attention_bf16_d128"));
        assert_eq!(name(128, 256, 64), Some("block_sparse_attention_bf16_d128"));
        assert_eq!(name(64, 128, 192), Some("block_sparse_attention_bf16_d64_64x64"));
        assert_eq!(name(128, 64, 128), Some("block_sparse_attention_bf16_d128_64x64"));
        assert_eq!((name(128, 128, 32), name(128, 0, 64), name(96, 128, 128)), (None, None, None));
    }
}
