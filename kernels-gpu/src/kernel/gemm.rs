//! Matrix products.

use super::{Dtype, Kernel};
use crate::tile_size::{GEMM_8X16, GEMM_16X64, GEMM_64X128, GEMM_128X128, GEMM_128X256, GemmTile};

/// A kernel that multiplies matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the operands.
    pub dtype: Dtype,
    /// What a CTA works on.
    pub tile: GemmTile,
}

const fn gemm_kernel(name: &'static str, dtype: Dtype, tile: GemmTile) -> GemmKernel {
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    GemmKernel { kernel, dtype, tile }
}

pub(super) const GEMM: [GemmKernel; 10] = [
    gemm_kernel("gemm_bf16_8x16", Dtype::Bf16, GEMM_8X16),
    gemm_kernel("gemm_bf16_16x64", Dtype::Bf16, GEMM_16X64),
    gemm_kernel("gemm_bf16_64x128", Dtype::Bf16, GEMM_64X128),
    gemm_kernel("gemm_bf16_128x128", Dtype::Bf16, GEMM_128X128),
    gemm_kernel("gemm_bf16_128x256", Dtype::Bf16, GEMM_128X256),
    gemm_kernel("gemm_f16_8x16", Dtype::F16, GEMM_8X16),
    gemm_kernel("gemm_f16_16x64", Dtype::F16, GEMM_16X64),
    gemm_kernel("gemm_f16_64x128", Dtype::F16, GEMM_64X128),
    gemm_kernel("gemm_f16_128x128", Dtype::F16, GEMM_128X128),
    gemm_kernel("gemm_f16_128x256", Dtype::F16, GEMM_128X256),
];

/// The kernel for operands of an element type that works in tiles of a size: `out = x weight^T + bias`.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `x` | `*const` 16-bit | `[rows, in_features]` |
/// | `weight` | `*const` 16-bit | `[out_features, in_features]` |
/// | `bias` | `*const` 16-bit, nullable | `[out_features]` |
/// | `out` | `*mut` 16-bit or f32 | `[rows, out_features]` |
/// | `partials` | `*mut f32` | workspace, `[splits, tiles_m * tiles_n, tile_m * tile_n]`; not used if `splits` is 1 |
/// | `tickets` | `*mut u32` | workspace, `[tiles_m * tiles_n]`, 0 before the launch and after it; not used if `splits` is 1 |
/// | | [`GemmParams`](crate::params::GemmParams) | |
///
/// Grid: (tiles_m * tiles_n, splits); (tiles_n, 1) with up to 8 rows for [`GEMM_8X16`]. `x`, `weight` and `out` are multiples of 16 bytes, `bias` of 4.
pub fn gemm(dtype: Dtype, tile: GemmTile) -> Option<GemmKernel> {
    GEMM.into_iter().find(|k| (k.dtype, k.tile) == (dtype, tile))
}
