//! Decode attention, and the merge of its splits.

use super::merge_state::{MergeKernel, merge};
use super::{Dtype, Kernel};
use crate::tile_size::{self, DecodeTile};

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

/// The smaller tiles first.
pub(super) const DECODE_ATTENTION: [DecodeKernel; 8] = {
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

pub(super) const DECODE_MERGE: [MergeKernel; 4] = [
    merge("decode_attention_bf16_d64_merge", Dtype::F32, Dtype::Bf16, 64),
    merge("decode_attention_bf16_d128_merge", Dtype::F32, Dtype::Bf16, 128),
    merge("decode_attention_f16_d64_merge", Dtype::F32, Dtype::F16, 64),
    merge("decode_attention_f16_d128_merge", Dtype::F32, Dtype::F16, 128),
];

/// The kernel of decode attention for an element type, a head dim and the most packed rows (query rows x query heads of a
/// group) of any sequence that the plan allows. Either kernel takes any number of rows, in several tiles if need be, but
/// they round differently: a choice by what a batch happens to hold would make a row's bits depend on its neighbours.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `q`, `k`, `v` | `*const` 16-bit | inputs |
/// | `partial_out` | `*mut f32` | workspace, `[batch, max_splits, num_heads_k, max_seqlen_q * group, head_dim]` |
/// | `partial_lse` | `*mut f32` | workspace, the same without `head_dim` |
/// | `cu_seqlens_q` | `*const u32` | `batch + 1` offsets of the queries |
/// | `k_starts`, `k_lens` | `*const u32` | `batch` first keys on the token axis, and numbers of keys |
/// | | [`DecodeParams`](crate::params::DecodeParams) | |
///
/// Grid: (max_splits, num_heads_k, batch * row_tiles). Split `s` of a sequence covers its keys from
/// `s * decode_split_keys(k_len)` on; CTAs beyond the last split leave at once, so that a grid made for the capacity of a
/// cache serves every fill of it. The rows of a group are packed: row `i * group + g` is query token `i` of the `g`-th
/// query head that reads the KV head.
pub fn decode_attention(dtype: Dtype, head_dim: u32, packed_rows: u32) -> Option<DecodeKernel> {
    let of_type = |k: &DecodeKernel| (k.dtype, k.tile.head_dim) == (dtype, head_dim);
    DECODE_ATTENTION
        .into_iter()
        .filter(of_type)
        .find(|k| packed_rows <= k.tile.tile_m)
        .or(DECODE_ATTENTION.into_iter().rfind(of_type))
}

/// The kernel that merges the splits of decode attention.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `partial_out`, `partial_lse` | `*const f32` | the workspace |
/// | `out` | `*mut` 16-bit | outputs |
/// | `softmax_lse` | `*mut f32`, nullable | `[num_heads, total_q]`, natural logarithm |
/// | `cu_seqlens_q`, `k_lens` | `*const u32` | as above |
/// | | [`DecodeParams`](crate::params::DecodeParams) | |
///
/// Grid: (max_seqlen_q * group over [`MERGE_ROWS`](crate::tile_size::MERGE_ROWS), rounded up, num_heads_k, batch). It reads no slot of the workspace
/// that was not written.
pub fn decode_merge(dtype: Dtype, head_dim: u32) -> Option<MergeKernel> {
    DECODE_MERGE.into_iter().find(|k| (k.out_dtype, k.head_dim) == (dtype, head_dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_get_the_small_decode_tile() {
        let name = |rows| decode_attention(Dtype::F16, 64, rows).map(|k| k.kernel.name);
        assert_eq!(name(16), Some("decode_attention_f16_d64_16_rows"));
        assert_eq!(name(17), Some("decode_attention_f16_d64_64_rows"));
        assert_eq!(name(256), Some("decode_attention_f16_d64_64_rows"));
        assert_eq!(decode_attention(Dtype::F32, 64, 1), None);
    }
}
