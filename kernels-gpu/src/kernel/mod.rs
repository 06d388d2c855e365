//! Every kernel by name, with its launch bounds, and what its launcher must pass.
//!
//! A kernel's parameters are pointers to global memory, in the order that the function gives which finds the kernel, then one struct of [`crate::params`] by
//! value. Pointers marked *nullable* may be 0. All tensors are `[tokens, heads, head_dim]` with the strides of the struct.
//! Kernels trust what they are passed: shapes, strides, alignment and tables are the launcher's to check. Sequences are
//! shorter than 2^30 tokens, scales at most [`SoftmaxScale::MAX`](crate::params::SoftmaxScale::MAX), grids at most 65535
//! in y and z.
//!
//! One file per operation: its kernels, and the function that chooses among them.

mod antidiagonal_score;
mod argmax;
mod attention;
mod block_mask;
mod block_pool;
mod block_select;
mod column_mass;
mod decode_attention;
mod flex_prefill;
mod gather_rows;
mod gemm;
mod k_means;
mod merge_state;
mod probe;
mod rms_norm;
mod rope;
mod sample;
mod silu_mul;
mod top_k;
mod vertical_slash;

pub use antidiagonal_score::{AntidiagonalKernel, antidiagonal_score};
pub use argmax::{ArgmaxKernel, argmax};
pub use attention::{AttentionKernel, block_sparse_attention, dense_attention};
pub use block_mask::{block_mask_fill, block_mask_scan};
pub use block_pool::{BlockPoolKernel, block_pool};
pub use block_select::{BlockSelectKernel, block_select};
pub use column_mass::{ColumnMassKernel, column_mass};
pub use decode_attention::{DecodeKernel, decode_attention, decode_merge};
pub use flex_prefill::{
    FlexPrefillKernel, flex_prefill_coverage, flex_prefill_cut, flex_prefill_decide, flex_prefill_map,
    flex_prefill_rows,
};
pub use gather_rows::{GatherRowsKernel, gather_rows};
pub use gemm::{GemmKernel, gemm};
pub use k_means::{KMeansStep, k_means_step};
pub use merge_state::{MergeKernel, merge_state};
pub use probe::{ProbeKernel, probe_lse, probe_sums};
pub use rms_norm::{RmsNormKernel, rms_norm};
pub use rope::{RopeKernel, RopePath, rope};
pub use sample::{SampleKernel, sample_cut, sample_draw, sample_histogram};
pub use silu_mul::{SiluMulKernel, silu_mul};
pub use top_k::{TopKKernel, top_k, top_k_tokens};
pub use vertical_slash::vertical_slash;

/// One kernel of the shipped PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its symbol.
    pub name: &'static str,
    /// Threads of a CTA, all in x.
    pub threads: u32,
    /// CTAs per SM that its registers leave room for.
    pub min_ctas_per_sm: u32,
    /// Dynamic shared memory of a launch. Above 48 KB it must be allowed on the function first.
    pub dynamic_smem_bytes: u32,
}

/// Element types of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision; [`merge_state`] alone.
    F32,
}

/// Joins tables of structs with a field `kernel` into one list of [`Kernel`]s.
macro_rules! join {
    ($($table:path,)*) => {{
        let mut all = [Kernel { name: "", threads: 0, min_ctas_per_sm: 0, dynamic_smem_bytes: 0 }; 0 $(+ $table.len())*];
        let mut n = 0;
        $(
            let mut i = 0;
            while i < $table.len() {
                all[n] = $table[i].kernel;
                (i, n) = (i + 1, n + 1);
            }
        )*
        all
    }};
}

/// Every kernel there is.
pub const KERNELS: &[Kernel] = &join! {
    antidiagonal_score::ANTIDIAGONAL_SCORES,
    argmax::ARGMAX,
    attention::BLOCK_SPARSE_ATTENTION,
    attention::DENSE_ATTENTION,
    block_mask::BLOCK_MASK,
    block_pool::BLOCK_POOL,
    block_select::BLOCK_SELECT,
    column_mass::COLUMN_MASS,
    decode_attention::DECODE_ATTENTION,
    decode_attention::DECODE_MERGE,
    flex_prefill::DECIDE,
    flex_prefill::MAP,
    flex_prefill::TYPELESS,
    gather_rows::GATHER_ROWS,
    gemm::GEMM,
    k_means::K_MEANS,
    merge_state::MERGE_STATE,
    probe::LSE,
    probe::SUMS,
    rms_norm::RMS_NORM,
    rope::ROPE,
    sample::SAMPLE,
    silu_mul::SILU_MUL,
    top_k::TOP_K,
    vertical_slash::VERTICAL_SLASH,
};

/// What the build of the PTX needs to know of a kernel: threads, CTAs per SM, most registers (0: what these two leave),
/// dynamic shared memory.
///
/// # Panics
/// When there is no such kernel; at compile time, where kernels are declared.
#[cfg(target_arch = "nvptx64")]
pub(crate) const fn launch_bounds(name: &str) -> [u32; 4] {
    let mut i = 0;
    while i < KERNELS.len() {
        let Kernel { name: other, threads, min_ctas_per_sm, dynamic_smem_bytes } = KERNELS[i];
        if same(other.as_bytes(), name.as_bytes()) {
            return [threads, min_ctas_per_sm, 0, dynamic_smem_bytes];
        }
        i += 1;
    }
    panic!("a kernel that is not in the table");
}

#[cfg(target_arch = "nvptx64")]
const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        for (i, a) in KERNELS.iter().enumerate() {
            assert!(KERNELS[..i].iter().all(|b| b.name != a.name), "{}", a.name);
        }
    }
}
