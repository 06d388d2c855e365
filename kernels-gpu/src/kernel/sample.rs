//! A random token of a distribution.

use super::Kernel;
use crate::tile_size::{
    SAMPLE_CUT_SMEM_BYTES, SAMPLE_DRAW_SMEM_BYTES, SAMPLE_HISTOGRAM_SMEM_BYTES, SAMPLE_WARPS, WARP,
};

/// A kernel of this operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleKernel {
    /// What to launch.
    pub kernel: Kernel,
}

const fn sample(name: &'static str, dynamic_smem_bytes: u32) -> SampleKernel {
    let threads = SAMPLE_WARPS * WARP;
    SampleKernel { kernel: Kernel { name, threads, min_ctas_per_sm: 1, dynamic_smem_bytes } }
}

pub(super) const SAMPLE: [SampleKernel; 3] = [
    sample("sample_histogram", SAMPLE_HISTOGRAM_SMEM_BYTES),
    sample("sample_cut", SAMPLE_CUT_SMEM_BYTES),
    sample("sample_draw", SAMPLE_DRAW_SMEM_BYTES),
];

/// The kernel that finds the tokens which a cut by top-k or top-p may keep.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `logits` | `*const f32` | rows, at the stride of the parameters |
/// | `top` | `*const u32` | `[rows]`: what [`argmax`](super::argmax) found |
/// | `control` | `*mut u32` | `[rows][8]`: [`sample::control`](crate::sample::control) |
/// | `counts` | `*mut u32` | `[rows][`[`SAMPLE_LEVELS`](crate::tile_size::SAMPLE_LEVELS)`]`: zeros, before and after |
/// | `sums` | `*mut u64` | as `counts` |
/// | | [`SampleParams`](crate::params::SampleParams) | |
///
/// Grid: (rows; slices).
pub fn sample_histogram() -> SampleKernel {
    SAMPLE[0]
}

/// The kernel that finds the cut itself.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `logits` | `*const f32` | rows, at the stride of the parameters |
/// | `top` | `*const u32` | `[rows]`: what [`argmax`](super::argmax) found |
/// | `control` | `*mut u32` | as [`sample_histogram`] left it |
/// | `survivors` | `*mut u32` | `[rows][`[`SAMPLE_SURVIVORS`](crate::tile_size::SAMPLE_SURVIVORS)`][2]`: keys and tokens |
/// | | [`SampleParams`](crate::params::SampleParams) | |
///
/// Grid: (rows; slices).
pub fn sample_cut() -> SampleKernel {
    SAMPLE[1]
}

/// The kernel that draws one of the tokens that are kept.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `logits` | `*const f32` | rows, at the stride of the parameters |
/// | `top` | `*const u32` | `[rows]`: what [`argmax`](super::argmax) found |
/// | `control` | `*mut u32` | as [`sample_cut`] left it, or such that all are kept |
/// | `slice_sums` | `*mut u64` | `[rows][slices]` |
/// | `uniform` | `*const f32` | `[rows]`, in [0, 1) |
/// | `out` | `*mut u32` | `[rows]`: the token, or `u32::MAX` where a logit is NaN or infinite |
/// | `counters` | `*mut u32` | as many as the parameters say, each of which grows by 1 |
/// | | [`SampleParams`](crate::params::SampleParams) | |
///
/// Grid: (rows; slices).
pub fn sample_draw() -> SampleKernel {
    SAMPLE[2]
}
