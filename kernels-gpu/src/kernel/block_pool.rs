//! Mean pooling of blocks of tokens.

use super::{Dtype, Kernel};
use crate::tile_size::{BLOCK_POOL_THREADS, block_pool_smem_bytes};

/// A kernel of block pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPoolKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the tokens.
    pub dtype: Dtype,
    /// Features of a head.
    pub head_dim: u32,
}

const fn pool(name: &'static str, dtype: Dtype, head_dim: u32) -> BlockPoolKernel {
    let kernel = Kernel {
        name,
        threads: BLOCK_POOL_THREADS,
        min_ctas_per_sm: 8,
        dynamic_smem_bytes: block_pool_smem_bytes(head_dim),
    };
    BlockPoolKernel { kernel, dtype, head_dim }
}

pub(super) const BLOCK_POOL: [BlockPoolKernel; 4] = [
    pool("block_pool_bf16_d64", Dtype::Bf16, 64),
    pool("block_pool_bf16_d128", Dtype::Bf16, 128),
    pool("block_pool_f16_d64", Dtype::F16, 64),
    pool("block_pool_f16_d128", Dtype::F16, 128),
];

/// The kernel that takes the means of blocks of tokens.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `x` | `*const` 16-bit | tokens |
/// | `pooled` | `*mut f32` | `[sequence][head][block][head_dim]`, the blocks of a sequence being as many as it has |
/// | `sequences` | `*const PoolSequence` | one entry per sequence |
/// | | [`BlockPoolParams`](crate::params::BlockPoolParams) | |
///
/// The mean of block `n` of head `h` is row `heads * first_block + h * blocks + n` of `pooled`. Grid: (the most blocks of any
/// sequence, heads, sequences); CTAs beyond a sequence's last block leave at once.
pub fn block_pool(dtype: Dtype, head_dim: u32) -> Option<BlockPoolKernel> {
    BLOCK_POOL.into_iter().find(|k| k.dtype == dtype && k.head_dim == head_dim)
}
