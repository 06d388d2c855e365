//! Kernels for compute capability 8.0 and later.

use core::num::NonZeroU32;

use super::block_sums::{Logits, MT, NT, Rows, Strip};
use super::finish::Finish;
use super::groups::Groups;
use super::slices::Slices;
use crate::arch::copy_sm80::cp_async_wait_group;
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::math::div_rem;
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::arch::{barrier, opaque};
use crate::block_grid::BlockGrid;
use crate::element::{Bf16, Element, F16};
use crate::forward::{Thread, fragment};
use crate::params::{AntidiagonalParams, AntidiagonalQTile, SearchSequence};
use crate::smem::{ROWS_16, STRIP_ROW_BYTES, columns_then_rows, rows_then_columns, step_columns};
use crate::tile_size::{ANTIDIAGONAL_SCORE, AntidiagonalTile, ELEMENT_BYTES};

const TILE: AntidiagonalTile = ANTIDIAGONAL_SCORE;
const STRIPS: u32 = TILE.strips();

/// The pointers of a launch.
#[derive(Clone, Copy)]
struct Tensors {
    q: u64,
    k: u64,
    scores: u64,
    /// The CTA's slab.
    scratch: u64,
}

/// All tiles of a CTA.
///
/// # Safety
/// Launched as [`crate::kernel::antidiagonal_score`] says.
#[inline(always)]
unsafe fn score<E: Element, const G: usize>(
    tensors: Tensors,
    sequences: *const SearchSequence,
    tiles: *const AntidiagonalQTile,
    params: AntidiagonalParams,
) {
    const { assert!(TILE.tile_m == 2 * 16 * MT as u32 && TILE.tile_n == STRIPS * 8 * NT as u32) };
    const { assert!(TILE.threads == 2 * STRIPS * crate::tile_size::WARP) };
    let [cta, ..] = cta();
    let tensors = Tensors { scratch: tensors.scratch + cta as u64 * params.slab * 4, ..tensors };
    let mut work = cta;
    while work < params.tiles * params.num_heads {
        // SAFETY: the launcher's; there are heads, and heads of a group.
        unsafe {
            let (tile, head) = div_rem(work, params.num_heads);
            let (head_k, group_head) = div_rem(head, params.group);
            let head = head_k * params.head_step_k + group_head * params.head_step;
            let tile = tiles.add(tile as usize).read();
            let sequence = sequences.add(tile.sequence as usize).read();
            score_tile::<E, G>(tensors, &sequence, &tile, head, head_k, &params);
        }
        work += params.ctas;
    }
}

/// One tile of one head.
///
/// # Safety
/// As [`score`]; reached by all threads of the CTA.
#[inline(always)]
unsafe fn score_tile<E: Element, const G: usize>(
    tensors: Tensors,
    sequence: &SearchSequence,
    tile: &AntidiagonalQTile,
    head: u32,
    head_k: u32,
    params: &AntidiagonalParams,
) {
    // SAFETY: the launcher's: the stride is 4, 8 or 16, a block is of `G` groups.
    unsafe {
        let groups = Groups::new(
            sequence.q_len,
            sequence.k_len,
            NonZeroU32::new_unchecked(params.stride),
            tile.past,
            params.causal != 0,
            params.tail_group != 0,
        );
        // The last row sees the most.
        let rows = TILE.tile_m.min(groups.queries - tile.first);
        let seen = groups.limit(tile.first + rows - 1).max(0) as u32;
        let key_tiles = seen.div_ceil(TILE.tile_n);

        let thread = Thread::current();
        let q = tensors.q + params.q.offset(sequence.q_start, head, ELEMENT_BYTES);
        let k = tensors.k + params.k.offset(sequence.k_start, head_k, ELEMENT_BYTES);
        let row_bytes = [params.q.token_bytes(), params.k.token_bytes()];
        let mut slices =
            Slices::new(thread.index, &groups, q, k, row_bytes, params.head_slices, tile.first, key_tiles);
        let smem = dynamic_smem();
        for stage in 0..TILE.stages - 1 {
            slices.begin(thread.index, smem + stage * TILE.stage_bytes());
        }

        let (row, strip) = (thread.warp / STRIPS * 16 * MT as u32, thread.warp % STRIPS);
        let q_lane = fragment(0, TILE.tile_m, row, rows_then_columns(thread.lane));
        let k_lane = fragment(
            TILE.tile_m * STRIP_ROW_BYTES,
            TILE.tile_n,
            strip * AntidiagonalTile::STRIP,
            columns_then_rows(thread.lane),
        );
        let mut of_strip = Rows::START;
        // Of the stages, that whose slice is next, and that whose slice was last.
        let (mut stage, mut free) = (smem, smem + (TILE.stages - 1) * TILE.stage_bytes());
        for key_tile in 0..key_tiles {
            let step = key_tile * STRIPS + strip;
            let at = Strip {
                row,
                q_group: tile.first + row,
                k_group: step * AntidiagonalTile::STRIP,
                scratch: tensors.scratch + step as u64 * const { TILE.strip_floats(G as u32) as u64 * 4 },
            };
            let is_seen = at.is_seen(&groups);
            let mut logits: Logits = [[[0.0; 4]; NT]; MT];
            for _ in 0..params.stride * params.head_slices {
                cp_async_wait_group::<{ TILE.stages - 2 }>();
                // The slice is there for all, and all have left the one before.
                barrier::sync();
                slices.begin(thread.index, free);
                if is_seen {
                    multiply::<E>(&mut logits, stage + q_lane, stage + k_lane);
                }
                free = stage;
                stage += TILE.stage_bytes();
                if stage == smem + TILE.stages * TILE.stage_bytes() {
                    stage = smem;
                }
            }
            of_strip.add::<G>(&mut logits, &at, &groups, params.scale_log2);
        }

        let (m_block, _) = div_rem(tile.first, G as u32);
        Finish {
            grid: BlockGrid {
                q_len: sequence.q_len,
                k_len: sequence.k_len,
                block: NonZeroU32::new_unchecked(params.block),
                causal: params.packed_causal != 0,
            },
            m_block,
            rows: rows.min(tile.end.saturating_sub(tile.first)),
            strips: key_tiles * STRIPS,
            scratch: tensors.scratch,
            scores: tensors.scores + (sequence.blocks + head as u64 * sequence.blocks_step) * 4,
            smem: smem + TILE.stages * TILE.stage_bytes(),
        }
        .run::<G>(&of_strip, row, strip);
    }
}

/// `logits += Q K^T` over a slice. The addresses are what this lane gives to `ldmatrix` for the first fragments.
///
/// # Safety
/// Reached by all lanes of the warp; the slice is in shared memory.
#[inline(always)]
unsafe fn multiply<E: Element>(logits: &mut Logits, q_lane: u32, k_lane: u32) {
    let (q_lane, k_lane) = (opaque(q_lane), opaque(k_lane));
    for k in 0..AntidiagonalTile::SLICE / 16 {
        // SAFETY: the caller's; all addresses are inside the stage.
        unsafe {
            let mut queries = [[0; 4]; MT];
            for i in 0..MT {
                queries[i] = ldmatrix_x4(step_columns(q_lane, TILE.tile_m, k) + i as u32 * ROWS_16);
            }
            for n in 0..NT / 2 {
                let [b0, b1, b2, b3] = ldmatrix_x4(step_columns(k_lane, TILE.tile_n, k) + n as u32 * ROWS_16);
                for i in 0..MT {
                    E::mma(&mut logits[i][2 * n], queries[i], [b0, b1]);
                    E::mma(&mut logits[i][2 * n + 1], queries[i], [b2, b3]);
                }
            }
        }
    }
}

macro_rules! antidiagonal_score {
    ($($name:ident: $element:ty, $g:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                k: u64,
                scores: u64,
                scratch: u64,
                sequences: *const SearchSequence,
                tiles: *const AntidiagonalQTile,
                params: AntidiagonalParams,
            ) {
                // SAFETY: see `crate::kernel`.
                unsafe { score::<$element, $g>(Tensors { q, k, scores, scratch }, sequences, tiles, params) }
            }
        }
    )*};
}

antidiagonal_score! {
    antidiagonal_score_bf16_g4: Bf16, 4;
    antidiagonal_score_bf16_g8: Bf16, 8;
    antidiagonal_score_bf16_g16: Bf16, 16;
    antidiagonal_score_bf16_g32: Bf16, 32;
    antidiagonal_score_f16_g4: F16, 4;
    antidiagonal_score_f16_g8: F16, 8;
    antidiagonal_score_f16_g16: F16, 16;
    antidiagonal_score_f16_g32: F16, 32;
}
