//! The forward pass that dense, block-sparse and vertical-slash attention share: a tile of query rows over whatever tiles of
//! keys it is given (FlashAttention-2, arXiv 2307.08691).
//!
//! # Tiling
//! A CTA of 4 warps owns `TILE_M = 64 MT` query rows of one head, a warp `16 MT` of them: all their scores, weights and
//! outputs are in its registers, and warps share nothing but tiles in shared memory. Queries stay in shared memory (the
//! registers have no room), keys and values pass by in tiles of `TILE_N = 8 NT`. Const parameters count fragments: `MT`
//! of 16 rows per warp, `NT` of 8 keys, `DT` of 8 features (`head_dim = 8 DT`).
//!
//! # Thread mapping
//! Fragments are those of [`crate::arch::mma_sm80`]: with `g = lane / 4` and `t = lane % 4` a lane holds, for each of its
//! `2 MT` rows `16 i + 8 half + g`, keys (of scores) or features (of outputs) `8 n + 2 t` and the next. The accumulators of
//! the scores, rounded and packed, are the operand of the second product as they lie: weights never leave the registers.
//!
//! # Schedule
//! ```text
//! wait for K(i); barrier; begin V(i); S = Q K(i)^T; wait for V(i); barrier; begin K(i+1); softmax; O += P V(i)
//! ```
//! V comes during the first product, the next K during softmax and the second. Two barriers per tile: the first also says
//! that all warps have left V(i-1), the second that they have left K(i).
//!
//! # Masks
//! Tiles are walked from the last key to the first, so that those cut by the causal diagonal or by the end of the
//! sequence come first, in a loop of their own; the other loop knows no masks. (A source of tiles may choose the other
//! order.) Keys that no row of the CTA sees are not read: their place is filled with zeros.
//!
//! A weight of zero times a NaN is NaN, and a value may be NaN for the rows that do not see it. In tiles with a mask,
//! values that are not finite are therefore taken to zero before the product, and added to the outputs of the rows that do
//! see them ([`non_finite`]): any positive weight times NaN or infinity is NaN or that infinity.
//!
//! # Shared memory
//! Queries, keys, values, each laid out as [`crate::smem`] says, in this order from the base. Outputs leave through the
//! queries' place. No access conflicts in its banks: the tests of `smem` prove it address by address.
//!
//! # Machine code
//! Of the loop without masks, per tile of keys and warp, by ptxas 13.0.88 for sm_80, bf16 (f16 is the same):
//!
//! | kernel | tile | registers | loop | HMMA | LDSM | MUFU | spilled to and from the stack in the loop |
//! |---|---|---|---|---|---|---|---|
//! | `dense_attention_d128` | 128 x 64 | 255 | 905 | 256 | 80 | 68 | 4 and 5 words |
//! | `dense_attention_d64` | 128 x 128 | 255 | 1082 | 256 | 72 | 132 | none |
//! | `block_sparse_attention_d128` | 128 x 64 | 255 | 898 | 256 | 80 | 68 | 6 and 9 words |
//! | `block_sparse_attention_d64` | 128 x 128 | 255 | 1106 | 256 | 72 | 132 | none |
//! | `block_sparse_attention_d128_64x64` | 64 x 64 | 168 | 524 | 128 | 72 | 34 | none |
//! | `block_sparse_attention_d64_64x64` | 64 x 64 | 128 | 372 | 64 | 36 | 34 | none |
//!
//! At head dim 128 outputs (128 registers) and scores (64) leave 63 for everything else: the running sums, touched once
//! per tile, live on the stack. The 256 products of a tile take 2048 cycles of an A100's tensor core, which two warps
//! share: 900 instructions each issue in their shadow. None of this has been timed.

mod accumulators;
mod epilogue;
mod mainloop;
pub(crate) mod non_finite;
mod tile;

pub(crate) use accumulators::Accumulators;
pub(crate) use mainloop::{forward, fragment, sign_queries};
pub(crate) use tile::TileCopy;

use crate::arch::shuffle;
use crate::mask::Mask;
use crate::params::{AttentionParams, SoftmaxScale};
use crate::tile_size::{AttentionTile, ELEMENT_BYTES, WARP};

/// Warps of a CTA.
pub(crate) const WARPS: u32 = 4;

/// Threads of a CTA.
pub(crate) const THREADS: u32 = WARPS * WARP;

/// One tile of query rows of one head: addresses are those of its first row, and of its sequence's first key.
pub(crate) struct RowTile {
    pub(crate) q: u64,
    pub(crate) k: u64,
    pub(crate) v: u64,
    pub(crate) out: u64,
    /// The LSE of the first row, or 0.
    pub(crate) softmax_lse: u64,
    /// Bytes from a token to the next.
    pub(crate) q_row_bytes: u64,
    pub(crate) k_row_bytes: u64,
    pub(crate) v_row_bytes: u64,
    pub(crate) out_row_bytes: u64,
    /// Rows that exist, from the first on: the tile is cut to them.
    pub(crate) rows: u32,
    /// Row 0 of the mask is the first row of the tile.
    pub(crate) mask: Mask,
    pub(crate) softmax_scale: SoftmaxScale,
}

/// The tensors of a launch, as kernel parameters.
#[derive(Clone, Copy)]
pub(crate) struct Tensors {
    pub(crate) q: u64,
    pub(crate) k: u64,
    pub(crate) v: u64,
    pub(crate) out: u64,
    pub(crate) softmax_lse: u64,
}

/// A sequence and the tile of its rows, as the tile tables give them.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) q_start: u32,
    pub(crate) q_len: u32,
    pub(crate) k_start: u32,
    pub(crate) k_len: u32,
    pub(crate) row: u32,
}

impl RowTile {
    /// The tile `rows` of query head `head`, which reads KV head `head_k`.
    #[inline(always)]
    pub(crate) fn new(
        tensors: Tensors,
        rows: Rows,
        head: u32,
        head_k: u32,
        params: &AttentionParams,
    ) -> Self {
        let token = rows.q_start + rows.row;
        let lse_index = head as u64 * params.total_q as u64 + token as u64;
        Self {
            q: tensors.q + params.q.offset(token, head, ELEMENT_BYTES),
            k: tensors.k + params.k.offset(rows.k_start, head_k, ELEMENT_BYTES),
            v: tensors.v + params.v.offset(rows.k_start, head_k, ELEMENT_BYTES),
            out: tensors.out + params.out.offset(token, head, ELEMENT_BYTES),
            softmax_lse: if tensors.softmax_lse == 0 { 0 } else { tensors.softmax_lse + 4 * lse_index },
            q_row_bytes: params.q.token_bytes(),
            k_row_bytes: params.k.token_bytes(),
            v_row_bytes: params.v.token_bytes(),
            out_row_bytes: params.out.token_bytes(),
            rows: rows.q_len - rows.row,
            mask: Mask::new(rows.q_len, rows.k_len, params.causal != 0).starting_at(rows.row),
            softmax_scale: params.softmax_scale,
        }
    }

    /// No row of a tile of `tile_m` rows sees a key from here on.
    #[inline(always)]
    pub(crate) fn key_limit(&self, tile_m: u32) -> i32 {
        self.mask.limit(self.rows.min(tile_m) - 1).max(0)
    }
}

/// Where a thread stands in its warp, and the warp in the CTA.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) index: u32,
    pub(crate) warp: u32,
    pub(crate) lane: u32,
}

impl Thread {
    /// # Safety
    /// Reached by all lanes of the warp.
    #[inline(always)]
    pub(crate) unsafe fn current() -> Self {
        let index = crate::arch::special_register::thread();
        // SAFETY: the caller's.
        let warp = unsafe { shuffle::uniform(index / WARP) };
        Self { index, warp, lane: index % WARP }
    }
}

/// Panics, at compile time, unless the fragments of a kernel make up its tile.
pub(crate) const fn assert_fragments(tile: Option<AttentionTile>, mt: usize, nt: usize, dt: usize) {
    let tile = tile.expect("a head dim with a tile");
    assert!(tile.threads == THREADS);
    assert!(tile.tile_m == mt as u32 * 16 * WARPS && tile.tile_n == nt as u32 * 8);
    assert!(tile.head_dim == dt as u32 * 8);
}
