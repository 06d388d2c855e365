//! The probe of the pattern searches.

use super::{Dtype, Kernel};
use crate::tile_size::{ProductTile, probe_lse_smem_bytes, probe_sums_smem_bytes};

/// A kernel of the probe and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of queries and keys.
    pub dtype: Dtype,
    /// What a CTA works on.
    pub tile: ProductTile,
}

const fn pass(name: &'static str, dtype: Dtype, head_dim: u32, dynamic_smem_bytes: u32) -> ProbeKernel {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    let (threads, min_ctas_per_sm) = (tile.threads, tile.min_ctas_per_sm);
    ProbeKernel { kernel: Kernel { name, threads, min_ctas_per_sm, dynamic_smem_bytes }, dtype, tile }
}

pub(super) const LSE: [ProbeKernel; 4] = [
    pass("probe_bf16_d64_lse", Dtype::Bf16, 64, probe_lse_smem_bytes(64)),
    pass("probe_bf16_d128_lse", Dtype::Bf16, 128, probe_lse_smem_bytes(128)),
    pass("probe_f16_d64_lse", Dtype::F16, 64, probe_lse_smem_bytes(64)),
    pass("probe_f16_d128_lse", Dtype::F16, 128, probe_lse_smem_bytes(128)),
];

pub(super) const SUMS: [ProbeKernel; 4] = [
    pass("probe_bf16_d64_sums", Dtype::Bf16, 64, probe_sums_smem_bytes(64)),
    pass("probe_bf16_d128_sums", Dtype::Bf16, 128, probe_sums_smem_bytes(128)),
    pass("probe_f16_d64_sums", Dtype::F16, 64, probe_sums_smem_bytes(64)),
    pass("probe_f16_d128_sums", Dtype::F16, 128, probe_sums_smem_bytes(128)),
];

/// The first pass of the probe: what the softmax of its rows needs to know of every chunk of keys.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k` | `*const` 16-bit | inputs |
/// | `partial` | `*mut [f32; 2]` | workspace, `[sequences, num_heads, max_chunks, 128]`: maximum and sum of each row |
/// | `sequences` | `*const SearchSequence` | one entry per sequence; lengths and first tokens count |
/// | | [`ProbeParams`](crate::params::ProbeParams) | |
///
/// Grid: (max_chunks * group, num_heads_k, sequences), heads of a group side by side so that they find their keys in the
/// cache. CTAs beyond the last chunk of their sequence leave at once.
pub fn probe_lse(dtype: Dtype, head_dim: u32) -> Option<ProbeKernel> {
    LSE.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}

/// The second pass: probabilities, summed by key and by diagonal.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k` | `*const` 16-bit | inputs |
/// | `partial` | `*const [f32; 2]` | the workspace |
/// | `vertical` | `*mut f32` | per key, the sum over the rows |
/// | `slash` | `*mut f32` | per offset (key position of the row - key), the sum over the rows |
/// | `sequences` | `*const SearchSequence` | as above |
/// | | [`ProbeParams`](crate::params::ProbeParams) | |
///
/// `vertical` and `slash` are `[sequence][query head][k_len]`: those of sequence `b` and head `h` begin at
/// `num_heads * k_start + h * k_len`. All of it is written, zeros for a sequence without queries. Grid as above.
pub fn probe_sums(dtype: Dtype, head_dim: u32) -> Option<ProbeKernel> {
    SUMS.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}
