//! The gate of the MLP.

use super::{Dtype, Kernel};
use crate::tile_size::SILU_MUL_THREADS;

/// A kernel of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiluMulKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of inputs and output.
    pub dtype: Dtype,
}

const fn gate(name: &'static str, dtype: Dtype) -> SiluMulKernel {
    let kernel = Kernel { name, threads: SILU_MUL_THREADS, min_ctas_per_sm: 12, dynamic_smem_bytes: 0 };
    SiluMulKernel { kernel, dtype }
}

pub(super) const SILU_MUL: [SiluMulKernel; 2] =
    [gate("silu_mul_bf16", Dtype::Bf16), gate("silu_mul_f16", Dtype::F16)];

/// The kernel that gates rows.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `gate_up` | `*const` 16-bit | `[rows, 2 * intermediate]`: a row of the gate, then of `up` |
/// | `out` | `*mut` 16-bit | `[rows, intermediate]` |
/// | | [`SiluMulParams`](crate::params::SiluMulParams) | |
///
/// Grid: (rows; pieces over [`SILU_MUL_THREADS`], rounded up).
pub fn silu_mul(dtype: Dtype) -> Option<SiluMulKernel> {
    SILU_MUL.into_iter().find(|k| k.dtype == dtype)
}
