//! The likeliest token.

use super::Kernel;
use crate::tile_size::{ARGMAX_THREADS, WARP};

/// A kernel of this operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgmaxKernel {
    /// What to launch.
    pub kernel: Kernel,
}

pub(super) const ARGMAX: [ArgmaxKernel; 1] = [ArgmaxKernel {
    kernel: Kernel {
        name: "argmax",
        threads: ARGMAX_THREADS,
        min_ctas_per_sm: 4,
        dynamic_smem_bytes: ARGMAX_THREADS / WARP * 8,
    },
}];

/// The kernel that finds the largest logit of rows.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `logits` | `*const f32` | rows, at the stride of the parameters |
/// | `meeting` | `*mut u64` | `[rows][2]`: `u64::MAX` and 0, before and after; not read where a row is one slice |
/// | `out` | `*mut u32` | `[rows]`: the index, or `u32::MAX` where a logit is NaN or infinite |
/// | `counters` | `*mut u32` | as many as the parameters say, each of which grows by 1 |
/// | | [`ArgmaxParams`](crate::params::ArgmaxParams) | |
///
/// Grid: (rows; slices of a row).
pub fn argmax() -> ArgmaxKernel {
    ARGMAX[0]
}
