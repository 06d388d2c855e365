//! RMSNorm of rows, and the residual addition before it.

use super::{Dtype, Kernel};
use crate::tile_size::{RMS_NORM as NARROW, RMS_NORM_WIDE as WIDE, RmsNormTile};

/// A kernel of RMSNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RmsNormKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of rows and weights.
    pub dtype: Dtype,
    /// Whether a branch is added first.
    pub add: bool,
    /// How a CTA holds a row.
    pub tile: RmsNormTile,
}

const fn norm(name: &'static str, dtype: Dtype, add: bool, tile: RmsNormTile) -> RmsNormKernel {
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    RmsNormKernel { kernel, dtype, add, tile }
}

/// Short rows before long ones.
pub(super) const RMS_NORM: [RmsNormKernel; 8] = [
    norm("rms_norm_bf16", Dtype::Bf16, false, NARROW),
    norm("rms_norm_bf16_add", Dtype::Bf16, true, NARROW),
    norm("rms_norm_bf16_wide", Dtype::Bf16, false, WIDE),
    norm("rms_norm_bf16_wide_add", Dtype::Bf16, true, WIDE),
    norm("rms_norm_f16", Dtype::F16, false, NARROW),
    norm("rms_norm_f16_add", Dtype::F16, true, NARROW),
    norm("rms_norm_f16_wide", Dtype::F16, false, WIDE),
    norm("rms_norm_f16_wide_add", Dtype::F16, true, WIDE),
];

/// The kernel that normalises rows of `hidden` features, after adding a branch to them if `add`.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `x` | `*const` 16-bit; `*mut` if `add` | `[rows, hidden]`; if `add`, the rounded sum is left there |
/// | `branch` | `*const` 16-bit | `[rows, hidden]`; a parameter only if `add` |
/// | `weight` | `*const` 16-bit | `[hidden]` |
/// | `out` | `*mut` 16-bit | `[rows, hidden]`; may be `branch`, or `x` of a kernel that does not write it |
/// | `not_finite` | `*mut u32`, nullable | lowered to the token of the first row with a NaN or an infinity in `x` |
/// | | [`RmsNormParams`](crate::params::RmsNormParams) | |
///
/// Grid: rows.
pub fn rms_norm(dtype: Dtype, add: bool, hidden: u32) -> Option<RmsNormKernel> {
    RMS_NORM.into_iter().find(|k| k.dtype == dtype && k.add == add && hidden <= k.tile.max_hidden())
}
