//! Column mass.

use super::{Dtype, Kernel};
use crate::tile_size::{ProductTile, column_mass_smem_bytes};

/// A kernel of column mass and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMassKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of queries and keys.
    pub dtype: Dtype,
    /// What a CTA works on: `tile_m` keys stay, query rows pass by.
    pub tile: ProductTile,
}

const fn column_mass_kernel(name: &'static str, dtype: Dtype, head_dim: u32) -> ColumnMassKernel {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: column_mass_smem_bytes(head_dim),
    };
    ColumnMassKernel { kernel, dtype, tile }
}

pub(super) const COLUMN_MASS: [ColumnMassKernel; 4] = [
    column_mass_kernel("column_mass_bf16_d64", Dtype::Bf16, 64),
    column_mass_kernel("column_mass_bf16_d128", Dtype::Bf16, 128),
    column_mass_kernel("column_mass_f16_d64", Dtype::F16, 64),
    column_mass_kernel("column_mass_f16_d128", Dtype::F16, 128),
];

/// The kernel of column mass: the attention that keys received from a window of query rows of all heads.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k` | `*const` 16-bit | inputs |
/// | `softmax_lse` | `*const f32` | `[num_heads, total_q]`, natural logarithm |
/// | `mass` | `*mut f32` | `[k_len]`, added to |
/// | | [`ColumnMassParams`](crate::params::ColumnMassParams) | |
///
/// Query `i` of the window sees its keys before `first_limit + i * limit_step`, both counted from the window's first. Grid:
/// k_len over `tile_m`, rounded up.
pub fn column_mass(dtype: Dtype, head_dim: u32) -> Option<ColumnMassKernel> {
    COLUMN_MASS.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}
