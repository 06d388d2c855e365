//! Kernels for compute capability 8.0 and later.

use super::ListedTiles;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::{RowTile, Rows, Tensors, assert_fragments, forward};
use crate::params::{AttentionParams, SparseQTile};
use crate::tile_size::block_sparse_attention;

#[inline(always)]
unsafe fn block_sparse<E: Element, const MT: usize, const NT: usize, const DT: usize, const TILE_N: i32>(
    tensors: Tensors,
    tiles: *const SparseQTile,
    indptr: *const u32,
    indices: *const u32,
    params: AttentionParams,
) {
    const { assert_fragments(block_sparse_attention(DT as u32 * 8, MT == 1), MT, NT, DT) };
    const { assert!(TILE_N == NT as i32 * 8) };
    let [group_head, tile, head_k] = cta();
    // SAFETY: the grid has a tile of the table for every CTA; the block mask has a row for it and every head.
    let (rows, head, key_tiles) = unsafe {
        let entry = tiles.add(tile as usize).read();
        let SparseQTile { q_start, q_len, k_start, k_len, row, mask_row, mask_row_step } = entry;
        let head = head_k * params.head_step_k + group_head * params.head_step;
        let list = indptr.add(mask_row as usize + head as usize * mask_row_step as usize);
        let (begin, end) = (list.read(), list.add(1).read());
        let key_tiles = ListedTiles::<TILE_N>::new(indices.add(begin as usize), end - begin, params.block_n);
        (Rows { q_start, q_len, k_start, k_len, row }, head, key_tiles)
    };
    let tile = RowTile::new(tensors, rows, head, head_k, &params);
    // SAFETY: all threads of the CTA come here; the launcher has checked what it passed.
    unsafe { forward::<E, _, MT, NT, DT>(&tile, key_tiles) }
}

macro_rules! block_sparse_attention {
    ($($name:ident: $element:ty, $mt:literal, $nt:literal, $dt:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                k: u64,
                v: u64,
                out: u64,
                softmax_lse: u64,
                tiles: *const SparseQTile,
                indptr: *const u32,
                indices: *const u32,
                params: AttentionParams,
            ) {
                let tensors = Tensors { q, k, v, out, softmax_lse };
                // SAFETY: see `crate::kernel`.
                unsafe {
                    block_sparse::<$element, $mt, $nt, $dt, { 8 * $nt }>(tensors, tiles, indptr, indices, params)
                }
            }
        }
    )*};
}

block_sparse_attention! {
    block_sparse_attention_bf16_d64: Bf16, 2, 16, 8;
    block_sparse_attention_bf16_d128: Bf16, 2, 8, 16;
    block_sparse_attention_f16_d64: F16, 2, 16, 8;
    block_sparse_attention_f16_d128: F16, 2, 8, 16;
    block_sparse_attention_bf16_d64_64x64: Bf16, 1, 8, 8;
    block_sparse_attention_bf16_d128_64x64: Bf16, 1, 8, 16;
    block_sparse_attention_f16_d64_64x64: F16, 1, 8, 8;
    block_sparse_attention_f16_d128_64x64: F16, 1, 8, 16;
}
