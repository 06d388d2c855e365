//! Kernels for compute capability 8.0 and later.

use super::AllTiles;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::{RowTile, Rows, Tensors, assert_fragments, forward};
use crate::params::{AttentionParams, QTile};
use crate::tile_size::dense_attention;

#[inline(always)]
unsafe fn dense<E: Element, const MT: usize, const NT: usize, const DT: usize, const TILE_N: i32>(
    tensors: Tensors,
    tiles: *const QTile,
    params: AttentionParams,
) {
    const { assert_fragments(dense_attention(DT as u32 * 8), MT, NT, DT) };
    const { assert!(TILE_N == NT as i32 * 8) };
    let [group_head, tile, head_k] = cta();
    // SAFETY: the grid has a tile of the table for every CTA.
    let entry = unsafe { tiles.add(tile as usize).read() };
    let QTile { q_start, q_len, k_start, k_len, row } = entry;
    let rows = Rows { q_start, q_len, k_start, k_len, row };
    let head = head_k * params.head_step_k + group_head * params.head_step;
    let tile = RowTile::new(tensors, rows, head, head_k, &params);
    let key_tiles = AllTiles::<TILE_N>::before(tile.key_limit((64 * MT) as u32));
    // SAFETY: all threads of the CTA come here; the launcher has checked what it passed.
    unsafe { forward::<E, _, MT, NT, DT>(&tile, key_tiles) }
}

macro_rules! dense_attention {
    ($($name:ident: $element:ty, $mt:literal, $nt:literal, $dt:literal;)*) => {$(
        kernel! {
            fn $name(q: u64, k: u64, v: u64, out: u64, softmax_lse: u64, tiles: *const QTile, params: AttentionParams) {
                // SAFETY: see `crate::kernel`.
                unsafe {
                    dense::<$element, $mt, $nt, $dt, { 8 * $nt }>(Tensors { q, k, v, out, softmax_lse }, tiles, params)
                }
            }
        }
    )*};
}

dense_attention! {
    dense_attention_bf16_d64: Bf16, 2, 16, 8;
    dense_attention_bf16_d128: Bf16, 2, 8, 16;
    dense_attention_f16_d64: F16, 2, 16, 8;
    dense_attention_f16_d128: F16, 2, 8, 16;
}
