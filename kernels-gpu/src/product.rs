//! Products of 128 rows that stay in registers with rows that pass by.
//!
//! A warp holds 32 of the 128 rows as operand A, whole: 4 registers per 16 features and 16 rows. The rows that pass by are
//! operand B: tiles of 32 go through a ring of two stages in shared memory, laid out as [`crate::smem`] says, and all warps
//! read all of them. A step is 8 `DT` products per warp and `DT` loads of operands. The products of row `16 i + 8 half + g` of
//! the warp (`g = lane / 4`) with rows `8 n + 2 (lane % 4) + c` of the step are at `[i][n][2 half + c]`.

use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::opaque;
use crate::element::Element;
use crate::forward::{THREADS, Thread, fragment};
use crate::smem::{ROWS_16, columns_then_rows, rows_then_columns, step_columns};
use crate::tile_size::{ELEMENT_BYTES, ProductTile, WARP};

/// Rows that stay.
pub(crate) const TILE_M: u32 = 128;

/// Rows of a step.
pub(crate) const TILE_N: u32 = 32;

/// The products of a warp's 32 rows with those of a step.
pub(crate) type Products = [[[f32; 4]; 4]; 2];

/// Bytes of a stage of the ring, for rows of `8 DT` features.
pub(crate) const fn stage_bytes(dt: usize) -> u32 {
    TILE_N * dt as u32 * 8 * ELEMENT_BYTES
}

/// Panics, at compile time, unless the tile of this head dim is the one that this file is written for.
pub(crate) const fn assert_tile(dt: usize) {
    let tile = ProductTile::new(dt as u32 * 8).expect("a head dim with a tile");
    assert!(tile.tile_m == TILE_M && tile.tile_n == TILE_N && tile.stages == 2);
    assert!(tile.threads == THREADS && TILE_M == THREADS / WARP * 32);
}

/// A warp's rows of `8 DT` features: fragment `i` of 16 rows and step `k` of 16 features at `i * DT / 2 + k`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<const DT: usize>([[u32; 4]; DT]);

impl<const DT: usize> Rows<DT> {
    /// Takes them from a tile of 128 rows at `smem`.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; the rows are there.
    #[inline(always)]
    pub(crate) unsafe fn load(smem: u32, thread: Thread) -> Self {
        let lane = fragment(smem, TILE_M, thread.warp * 32, rows_then_columns(thread.lane));
        let mut rows = [[0; 4]; DT];
        for i in 0..2 {
            for k in 0..DT / 2 {
                // SAFETY: the caller's; the addresses are inside the tile.
                rows[i * (DT / 2) + k] =
                    unsafe { ldmatrix_x4(step_columns(lane, TILE_M, k as u32) + i as u32 * ROWS_16) };
            }
        }
        Self(rows)
    }

    /// Their products with the rows of the stage at `smem`.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; the rows are there.
    #[inline(always)]
    pub(crate) unsafe fn times<E: Element>(&self, smem: u32, thread: Thread) -> Products {
        let lane = opaque(fragment(smem, TILE_N, 0, columns_then_rows(thread.lane)));
        let mut products = [[[0.0; 4]; 4]; 2];
        for k in 0..DT / 2 {
            for n in 0..2 {
                // SAFETY: the caller's; the addresses are inside the stage.
                unsafe {
                    let address = step_columns(lane, TILE_N, k as u32) + n as u32 * ROWS_16;
                    let [b0, b1, b2, b3] = ldmatrix_x4(address);
                    for i in 0..2 {
                        let a = self.0[i * (DT / 2) + k];
                        E::mma(&mut products[i][2 * n], a, [b0, b1]);
                        E::mma(&mut products[i][2 * n + 1], a, [b2, b3]);
                    }
                }
            }
        }
        products
    }
}
