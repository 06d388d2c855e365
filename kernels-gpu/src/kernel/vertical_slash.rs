//! Vertical-slash attention.

use super::attention::AttentionKernel;
use super::{Dtype, Kernel};
use crate::tile_size;

const fn vertical_slash_kernel(name: &'static str, dtype: Dtype, head_dim: u32) -> AttentionKernel {
    let tile = tile_size::vertical_slash(head_dim).expect("a head dim with a tile");
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile_size::vertical_slash_smem_bytes(&tile),
    };
    AttentionKernel { kernel, dtype, tile }
}

pub(super) const VERTICAL_SLASH: [AttentionKernel; 4] = [
    vertical_slash_kernel("vertical_slash_bf16_d64", Dtype::Bf16, 64),
    vertical_slash_kernel("vertical_slash_bf16_d128", Dtype::Bf16, 128),
    vertical_slash_kernel("vertical_slash_f16_d64", Dtype::F16, 64),
    vertical_slash_kernel("vertical_slash_f16_d128", Dtype::F16, 128),
];

/// The kernel of vertical-slash attention for an element type and head dim.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k`, `v`, `out`, `softmax_lse` | | as in [`dense_attention()`](super::dense_attention()) |
/// | `tiles` | `*const SparseQTile` | as there; `mask_row` is the row of the lists for query head 0, `mask_row_step` from there to the next head's |
/// | `columns` | `*const u32` | `[rows, column_step]`: a head's key columns, ascending |
/// | `column_counts` | `*const u32` | `[rows]`: how many |
/// | `slashes` | `*const u32` | `[rows, slash_step]`: a head's offsets query - key, ascending, below 2^30 |
/// | `slash_counts` | `*const u32` | `[rows]`: how many |
/// | | [`VerticalSlashParams`](crate::params::VerticalSlashParams) | |
///
/// Grid as there, of tiles of 64 rows.
pub fn vertical_slash(dtype: Dtype, head_dim: u32) -> Option<AttentionKernel> {
    VERTICAL_SLASH.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}
