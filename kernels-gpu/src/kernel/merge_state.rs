//! Merging states.

use super::{Dtype, Kernel};
use crate::tile_size::{MERGE_ROWS, WARP};

/// A merge kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the parts.
    pub part_dtype: Dtype,
    /// Element type of the outputs.
    pub out_dtype: Dtype,
    /// Features of a head.
    pub head_dim: u32,
}

pub(super) const fn merge(
    name: &'static str,
    part_dtype: Dtype,
    out_dtype: Dtype,
    head_dim: u32,
) -> MergeKernel {
    let kernel = Kernel { name, threads: MERGE_ROWS * WARP, min_ctas_per_sm: 8, dynamic_smem_bytes: 0 };
    MergeKernel { kernel, part_dtype, out_dtype, head_dim }
}

pub(super) const MERGE_STATE: [MergeKernel; 10] = [
    merge("merge_state_bf16_d64", Dtype::Bf16, Dtype::Bf16, 64),
    merge("merge_state_bf16_d128", Dtype::Bf16, Dtype::Bf16, 128),
    merge("merge_state_f16_d64", Dtype::F16, Dtype::F16, 64),
    merge("merge_state_f16_d128", Dtype::F16, Dtype::F16, 128),
    merge("merge_state_f32_d64", Dtype::F32, Dtype::F32, 64),
    merge("merge_state_f32_d128", Dtype::F32, Dtype::F32, 128),
    merge("merge_state_bf16_d64_f32_parts", Dtype::F32, Dtype::Bf16, 64),
    merge("merge_state_bf16_d128_f32_parts", Dtype::F32, Dtype::Bf16, 128),
    merge("merge_state_f16_d64_f32_parts", Dtype::F32, Dtype::F16, 64),
    merge("merge_state_f16_d128_f32_parts", Dtype::F32, Dtype::F16, 128),
];

/// The kernel that merges parts of one element type into an output of the same or another.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `part_out` | `*const` 16-bit or f32 | `[num_parts, total_q, num_heads, head_dim]` |
/// | `part_lse` | `*const f32` | `[num_parts, num_heads, total_q]`, natural logarithm |
/// | `out` | `*mut` 16-bit or f32 | outputs |
/// | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]` |
/// | | [`MergeParams`](crate::params::MergeParams) | |
///
/// Grid: total_q * num_heads over [`MERGE_ROWS`](crate::tile_size::MERGE_ROWS), rounded up. `out` may be one of the parts.
pub fn merge_state(part_dtype: Dtype, out_dtype: Dtype, head_dim: u32) -> Option<MergeKernel> {
    MERGE_STATE
        .into_iter()
        .find(|k| (k.part_dtype, k.out_dtype, k.head_dim) == (part_dtype, out_dtype, head_dim))
}
