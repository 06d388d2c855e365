//! Every kernel by name, with its launch bounds, and what its launcher must pass.
//!
//! A kernel's parameters are pointers to global memory, in the order given below, then one struct of [`crate::params`] by
//! value. Pointers marked *nullable* may be 0. All tensors are `[tokens, heads, head_dim]` with the strides of the struct.
//! Kernels trust what they are passed: shapes, strides, alignment and tables are the launcher's to check. Sequences are
//! shorter than 2^30 tokens, scales at most [`SoftmaxScale::MAX`](crate::params::SoftmaxScale::MAX), grids at most 65535
//! in y and z.
//!
//! **Dense attention**, [`dense_attention`]
//!
//! | parameter | type | holds |
//! |---|---|---|
//! | `q`, `k`, `v` | `*const` 16-bit | inputs |
//! | `out` | `*mut` 16-bit | outputs |
//! | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]`, natural logarithm |
//! | `tiles` | `*const QTile` | one entry per tile of `tile_m` rows of every sequence, longest first |
//! | | [`AttentionParams`](crate::params::AttentionParams) | |
//!
//! Grid: (group, number of tiles, num_heads_k). Neighbouring CTAs read the same keys and values. The order of the table
//! is free: it decides when a tile starts, not what comes out. A sequence without queries has no tile; one without keys
//! has, and gets zeros and `-inf`.
//!
//! **Block-sparse attention**, [`block_sparse_attention`]
//!
//! | parameter | type | holds |
//! |---|---|---|
//! | `q`, `k`, `v`, `out`, `softmax_lse` | | as above |
//! | `tiles` | `*const SparseQTile` | as above, with the tile's row in the block mask |
//! | `indptr`, `indices` | `*const u32` | the block mask in CSR form; lists ascend |
//! | | [`AttentionParams`](crate::params::AttentionParams) | `block_n` counts |
//!
//! Grid as above. Rows of the mask are query blocks of `block_m` rows, a multiple of `tile_m`; several tiles may share one.
//!
//! **Decode attention**, [`decode_attention`], then its merge, [`decode_merge`]
//!
//! | parameter | type | holds |
//! |---|---|---|
//! | `q`, `k`, `v` | `*const` 16-bit | inputs |
//! | `partial_out` | `*mut f32` | workspace, `[batch, max_splits, num_heads_k, max_seqlen_q * group, head_dim]` |
//! | `partial_lse` | `*mut f32` | workspace, the same without `head_dim` |
//! | `cu_seqlens_q` | `*const u32` | `batch + 1` offsets of the queries |
//! | `k_starts`, `k_lens` | `*const u32` | `batch` first keys on the token axis, and numbers of keys |
//! | | [`DecodeParams`](crate::params::DecodeParams) | |
//!
//! Grid: (max_splits, num_heads_k, batch * row_tiles). Split `s` of a sequence covers its keys from
//! `s * decode_split_keys(k_len)` on; CTAs beyond the last split leave at once, so that a grid made for the capacity of a
//! cache serves every fill of it. The rows of a group are packed: row `i * group + g` is query token `i` of the `g`-th
//! query head that reads the KV head.
//!
//! | parameter of the merge | type | holds |
//! |---|---|---|
//! | `partial_out`, `partial_lse` | `*const f32` | the workspace |
//! | `out` | `*mut` 16-bit | outputs |
//! | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]`, natural logarithm |
//! | `cu_seqlens_q`, `k_lens` | `*const u32` | as above |
//! | | [`DecodeParams`](crate::params::DecodeParams) | |
//!
//! Grid: (max_seqlen_q * group over [`MERGE_ROWS`], rounded up, num_heads_k, batch). It reads no slot of the workspace
//! that was not written.
//!
//! **Merging states**, [`merge_state`]
//!
//! | parameter | type | holds |
//! |---|---|---|
//! | `part_out` | `*const` 16-bit or f32 | `[num_parts, total_q, num_heads, head_dim]` |
//! | `part_lse` | `*const f32` | `[num_parts, num_heads, total_q]`, natural logarithm |
//! | `out` | `*mut` 16-bit or f32 | outputs |
//! | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]` |
//! | | [`MergeParams`](crate::params::MergeParams) | |
//!
//! Grid: total_q * num_heads over [`MERGE_ROWS`], rounded up. `out` may be one of the parts.

use crate::tile_size::{self, AttentionTile, DecodeTile, MERGE_ROWS, WARP};

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

/// An attention kernel and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of inputs and outputs.
    pub dtype: Dtype,
    /// What a CTA works on.
    pub tile: AttentionTile,
}

/// A decode kernel and its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the inputs.
    pub dtype: Dtype,
    /// What a CTA works on.
    pub tile: DecodeTile,
}

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

const fn attention(name: &'static str, dtype: Dtype, tile: Option<AttentionTile>) -> AttentionKernel {
    let tile = tile.expect("a head dim with a tile");
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    AttentionKernel { kernel, dtype, tile }
}

const fn decode(name: &'static str, dtype: Dtype, tile: Option<DecodeTile>) -> DecodeKernel {
    let tile = tile.expect("a head dim with a tile");
    let kernel = Kernel {
        name,
        threads: tile.threads,
        min_ctas_per_sm: tile.min_ctas_per_sm,
        dynamic_smem_bytes: tile.smem_bytes(),
    };
    DecodeKernel { kernel, dtype, tile }
}

const fn merge(name: &'static str, part_dtype: Dtype, out_dtype: Dtype, head_dim: u32) -> MergeKernel {
    let kernel = Kernel { name, threads: MERGE_ROWS * WARP, min_ctas_per_sm: 8, dynamic_smem_bytes: 0 };
    MergeKernel { kernel, part_dtype, out_dtype, head_dim }
}

const DENSE_ATTENTION: [AttentionKernel; 4] = [
    attention("dense_attention_bf16_d64", Dtype::Bf16, tile_size::dense_attention(64)),
    attention("dense_attention_bf16_d128", Dtype::Bf16, tile_size::dense_attention(128)),
    attention("dense_attention_f16_d64", Dtype::F16, tile_size::dense_attention(64)),
    attention("dense_attention_f16_d128", Dtype::F16, tile_size::dense_attention(128)),
];

/// The larger tiles first.
const BLOCK_SPARSE_ATTENTION: [AttentionKernel; 8] = {
    use tile_size::block_sparse_attention as tile;
    [
        attention("block_sparse_attention_bf16_d64", Dtype::Bf16, tile(64, false)),
        attention("block_sparse_attention_bf16_d128", Dtype::Bf16, tile(128, false)),
        attention("block_sparse_attention_f16_d64", Dtype::F16, tile(64, false)),
        attention("block_sparse_attention_f16_d128", Dtype::F16, tile(128, false)),
        attention("block_sparse_attention_bf16_d64_64x64", Dtype::Bf16, tile(64, true)),
        attention("block_sparse_attention_bf16_d128_64x64", Dtype::Bf16, tile(128, true)),
        attention("block_sparse_attention_f16_d64_64x64", Dtype::F16, tile(64, true)),
        attention("block_sparse_attention_f16_d128_64x64", Dtype::F16, tile(128, true)),
    ]
};

/// The smaller tiles first.
const DECODE_ATTENTION: [DecodeKernel; 8] = {
    use tile_size::decode_attention as tile;
    [
        decode("decode_attention_bf16_d64_16_rows", Dtype::Bf16, tile(64, false)),
        decode("decode_attention_bf16_d128_16_rows", Dtype::Bf16, tile(128, false)),
        decode("decode_attention_f16_d64_16_rows", Dtype::F16, tile(64, false)),
        decode("decode_attention_f16_d128_16_rows", Dtype::F16, tile(128, false)),
        decode("decode_attention_bf16_d64_64_rows", Dtype::Bf16, tile(64, true)),
        decode("decode_attention_bf16_d128_64_rows", Dtype::Bf16, tile(128, true)),
        decode("decode_attention_f16_d64_64_rows", Dtype::F16, tile(64, true)),
        decode("decode_attention_f16_d128_64_rows", Dtype::F16, tile(128, true)),
    ]
};

const DECODE_MERGE: [MergeKernel; 4] = [
    merge("decode_attention_bf16_d64_merge", Dtype::F32, Dtype::Bf16, 64),
    merge("decode_attention_bf16_d128_merge", Dtype::F32, Dtype::Bf16, 128),
    merge("decode_attention_f16_d64_merge", Dtype::F32, Dtype::F16, 64),
    merge("decode_attention_f16_d128_merge", Dtype::F32, Dtype::F16, 128),
];

const MERGE_STATE: [MergeKernel; 10] = [
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

const NUM_KERNELS: usize = DENSE_ATTENTION.len()
    + BLOCK_SPARSE_ATTENTION.len()
    + DECODE_ATTENTION.len()
    + DECODE_MERGE.len()
    + MERGE_STATE.len();

/// Every kernel there is.
pub const KERNELS: &[Kernel] = &{
    let mut all = [DENSE_ATTENTION[0].kernel; NUM_KERNELS];
    let mut n = 0;
    macro_rules! append {
        ($($kernels:ident)*) => {$(
            let mut i = 0;
            while i < $kernels.len() {
                all[n] = $kernels[i].kernel;
                (i, n) = (i + 1, n + 1);
            }
        )*};
    }
    append!(DENSE_ATTENTION BLOCK_SPARSE_ATTENTION DECODE_ATTENTION DECODE_MERGE MERGE_STATE);
    all
};

/// The kernel of dense attention for an element type and head dim.
pub fn dense_attention(dtype: Dtype, head_dim: u32) -> Option<AttentionKernel> {
    DENSE_ATTENTION.into_iter().find(|k| k.dtype == dtype && k.tile.head_dim == head_dim)
}

/// The kernel of block-sparse attention for an element type, a head dim and mask blocks of `block_m x block_n`: the one
/// with the largest tile that divides them. `None` also where a side is 0 or no multiple of 64.
pub fn block_sparse_attention(
    dtype: Dtype,
    head_dim: u32,
    block_m: u32,
    block_n: u32,
) -> Option<AttentionKernel> {
    let divides = |tile: u32, block: u32| block > 0 && block.is_multiple_of(tile);
    BLOCK_SPARSE_ATTENTION.into_iter().find(|k| {
        (k.dtype, k.tile.head_dim) == (dtype, head_dim)
            && divides(k.tile.tile_m, block_m)
            && divides(k.tile.tile_n, block_n)
    })
}

/// The kernel of decode attention for an element type, a head dim and the most packed rows (query rows x query heads of a
/// group) of any sequence that the plan allows. Either kernel takes any number of rows, in several tiles if need be, but
/// they round differently: a choice by what a batch happens to hold would make a row's bits depend on its neighbours.
pub fn decode_attention(dtype: Dtype, head_dim: u32, packed_rows: u32) -> Option<DecodeKernel> {
    let of_type = |k: &DecodeKernel| (k.dtype, k.tile.head_dim) == (dtype, head_dim);
    DECODE_ATTENTION
        .into_iter()
        .filter(of_type)
        .find(|k| packed_rows <= k.tile.tile_m)
        .or(DECODE_ATTENTION.into_iter().rfind(of_type))
}

/// The kernel that merges the splits of decode attention.
pub fn decode_merge(dtype: Dtype, head_dim: u32) -> Option<MergeKernel> {
    DECODE_MERGE.into_iter().find(|k| (k.out_dtype, k.head_dim) == (dtype, head_dim))
}

/// The kernel that merges parts of one element type into an output of the same or another.
pub fn merge_state(part_dtype: Dtype, out_dtype: Dtype, head_dim: u32) -> Option<MergeKernel> {
    MERGE_STATE
        .into_iter()
        .find(|k| (k.part_dtype, k.out_dtype, k.head_dim) == (part_dtype, out_dtype, head_dim))
}

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

    #[test]
    fn the_largest_tile_that_fits_the_blocks() {
        let name = |d, m, n| block_sparse_attention(Dtype::Bf16, d, m, n).map(|k| k.kernel.name);
        assert_eq!(name(128, 128, 128), Some("block_sparse_attention_bf16_d128"));
        assert_eq!(name(128, 256, 64), Some("block_sparse_attention_bf16_d128"));
        assert_eq!(name(64, 128, 192), Some("block_sparse_attention_bf16_d64_64x64"));
        assert_eq!(name(128, 64, 128), Some("block_sparse_attention_bf16_d128_64x64"));
        assert_eq!((name(128, 128, 32), name(128, 0, 64), name(96, 128, 128)), (None, None, None));
    }

    #[test]
    fn few_rows_get_the_small_decode_tile() {
        let name = |rows| decode_attention(Dtype::F16, 64, rows).map(|k| k.kernel.name);
        assert_eq!(name(16), Some("decode_attention_f16_d64_16_rows"));
        assert_eq!(name(17), Some("decode_attention_f16_d64_64_rows"));
        assert_eq!(name(256), Some("decode_attention_f16_d64_64_rows"));
        assert_eq!(decode_attention(Dtype::F32, 64, 1), None);
    }
}
