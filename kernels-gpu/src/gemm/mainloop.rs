//! Products of a tile, over the features of a CTA.

use super::copy::{Copies, SLICES};
use crate::arch::barrier;
use crate::arch::copy_sm80::{cp_async_commit_group, cp_async_wait_group};
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::element::Element;
use crate::forward::{Thread, fragment};
use crate::smem::{ROWS_16, STRIP_ROW_BYTES, columns_then_rows, rows_then_columns, step_columns};
use crate::tile_size::GemmTile;

/// The sums of a warp: of row `16 i + 8 half + lane / 4` and columns `8 j + 2 (lane % 4)` and the next at `[i][j][2 half..]`.
pub(super) type Sums<const MT: usize, const NT: usize> = [[[f32; 4]; NT]; MT];

/// The operands of a slice, as a warp multiplies them.
struct Fragments<const MT: usize, const NT: usize> {
    x: [[u32; 4]; MT],
    weight: [[u32; 2]; NT],
}

/// Where a warp finds its operands.
#[derive(Clone, Copy)]
struct Operands {
    tile: GemmTile,
    /// What the lane gives to `ldmatrix` for the first fragments, from the start of a stage.
    x_lane: u32,
    weight_lane: u32,
}

impl Operands {
    /// # Safety
    /// Reached by all lanes of the warp; the step is in the stage.
    #[inline(always)]
    unsafe fn load<const MT: usize, const NT: usize, const SLICE: u32>(
        &self,
        stage: u32,
    ) -> Fragments<MT, NT> {
        let mut fragments = Fragments { x: [[0; 4]; MT], weight: [[0; 2]; NT] };
        let x = step_columns(self.x_lane + stage, self.tile.tile_m, SLICE);
        let weight = step_columns(self.weight_lane + stage, self.tile.tile_n, SLICE);
        for i in 0..MT {
            // SAFETY: the caller's; the address is inside the stage.
            fragments.x[i] = unsafe { ldmatrix_x4(x + i as u32 * ROWS_16) };
        }
        for j in 0..NT / 2 {
            // SAFETY: as above.
            let [b0, b1, b2, b3] = unsafe { ldmatrix_x4(weight + j as u32 * ROWS_16) };
            fragments.weight[2 * j] = [b0, b1];
            fragments.weight[2 * j + 1] = [b2, b3];
        }
        fragments
    }
}

/// Adds the products of a slice. Columns are walked to and fro, so that neighbouring products share an operand.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
unsafe fn multiply<E: Element, const MT: usize, const NT: usize>(
    sums: &mut Sums<MT, NT>,
    fragments: &Fragments<MT, NT>,
) {
    for i in 0..MT {
        for j in 0..NT {
            let j = if i % 2 == 0 { j } else { NT - 1 - j };
            // SAFETY: the caller's.
            unsafe { E::mma(&mut sums[i][j], fragments.x[i], fragments.weight[j]) };
        }
    }
}

/// The sums over `steps` steps, from the first that `copies` makes.
///
/// Operands of a slice are loaded while those of the slice before are multiplied, those of a step's first slice too: the
/// barrier that says that a step is there comes a slice before its end. The last slice loads from a stage of zeros.
///
/// # Safety
/// Reached by all threads of the CTA, with the tile's shared memory at `smem`, which is free again when all have returned.
#[inline(always)]
pub(super) unsafe fn sums<
    E: Element,
    const MT: usize,
    const NT: usize,
    const STAGES: u32,
    const PENDING: u32,
>(
    tile: GemmTile,
    thread: Thread,
    origin: [u32; 2],
    smem: u32,
    copies: &mut Copies,
    steps: u32,
) -> Sums<MT, NT> {
    const { assert!(SLICES == 4 && PENDING + 2 == STAGES) };
    let [row, column] = origin;
    let operands = Operands {
        tile,
        x_lane: fragment(0, tile.tile_m, row, rows_then_columns(thread.lane)),
        weight_lane: tile.tile_m * STRIP_ROW_BYTES
            + fragment(0, tile.tile_n, column, columns_then_rows(thread.lane)),
    };
    let (first, last) = (smem, smem + (STAGES - 1) * tile.stage_bytes());
    let mut sums = [[[0.0; 4]; NT]; MT];
    // SAFETY: the caller's. A stage is read between the barrier that follows the wait for its copies and the barrier before
    // the step in which it is written again: that one is passed after its last slice has been loaded.
    unsafe {
        let mut stage = first;
        while stage != last {
            copies.slice::<0>(stage);
            copies.slice::<1>(stage);
            copies.slice::<2>(stage);
            copies.slice::<3>(stage);
            copies.advance();
            cp_async_commit_group();
            stage += tile.stage_bytes();
        }
        cp_async_wait_group::<PENDING>();
        barrier::sync();
        // The stage that is read, and the one that is written.
        let (mut stage, mut free) = (first, last);
        let mut even = operands.load::<MT, NT, 0>(stage);
        for _ in 0..steps {
            let odd = operands.load::<MT, NT, 1>(stage);
            copies.slice::<0>(free);
            multiply::<E, MT, NT>(&mut sums, &even);

            let even_2 = operands.load::<MT, NT, 2>(stage);
            copies.slice::<1>(free);
            multiply::<E, MT, NT>(&mut sums, &odd);

            let odd_2 = operands.load::<MT, NT, 3>(stage);
            copies.slice::<2>(free);
            multiply::<E, MT, NT>(&mut sums, &even_2);

            copies.slice::<3>(free);
            copies.advance();
            cp_async_commit_group();
            cp_async_wait_group::<PENDING>();
            barrier::sync();
            free = stage;
            stage = if stage == last { first } else { stage + tile.stage_bytes() };
            even = operands.load::<MT, NT, 0>(stage);
            multiply::<E, MT, NT>(&mut sums, &odd_2);
        }
        cp_async_wait_group::<0>();
        barrier::sync();
    }
    sums
}
