//! Prologue and loop over the tiles of keys.

use super::{Accumulators, RowTile, Thread, TileCopy, epilogue, non_finite};
use crate::arch::copy_sm80::{cp_async_commit_group, cp_async_wait_group};
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::shared::{dynamic_smem, ld_shared_v4_b32, st_shared_v4_b32};
use crate::arch::{barrier, opaque};
use crate::element::Element;
use crate::key_tiles::{Gathered, KeyTiles};
use crate::mask::hide;
use crate::params::SoftmaxScale;
use crate::smem::{ROWS_16, chunk_offset, columns_then_rows, rows_then_columns, step_columns};
use crate::tile_size::ELEMENT_BYTES;

/// What the loop keeps beside the accumulators.
struct Mainloop<'a, const MT: usize, const NT: usize, const DT: usize> {
    tile: &'a RowTile,
    keys: TileCopy<DT>,
    values: TileCopy<DT>,
    /// Tiles in shared memory.
    k_smem: u32,
    v_smem: u32,
    /// What this lane gives to `ldmatrix` for the first fragments.
    q_lane: u32,
    k_lane: u32,
    v_lane: u32,
    /// No row of the CTA sees a key from here on.
    key_limit: i32,
}

impl<const MT: usize, const NT: usize, const DT: usize> Mainloop<'_, MT, NT, DT> {
    const TILE_M: u32 = (64 * MT) as u32;
    const TILE_N: u32 = (8 * NT) as u32;

    /// Begins to copy the keys or values of tile `n`; with `cut` only of those before the limit.
    ///
    /// # Safety
    /// Their place `smem` is free; without `cut` all of them exist.
    #[inline(always)]
    unsafe fn begin<K: KeyTiles>(&self, key_tiles: &K, copy: &TileCopy<DT>, smem: u32, n: i32, cut: bool) {
        // SAFETY: the caller's; keys before the limit exist in any case, and so do those that are gathered.
        unsafe {
            if let Some(keys) = key_tiles.gathered(n) {
                copy.gather(smem, keys);
            } else if cut {
                copy.cut(smem, n as u32, self.key_limit);
            } else {
                copy.whole(smem, n as u32);
            }
        }
        cp_async_commit_group();
    }

    /// Where the last tile of consecutive keys may begin of which every row of the CTA sees all.
    #[inline(always)]
    fn whole_tiles(&self) -> i32 {
        // The first row sees the fewest keys.
        self.tile.mask.limit(0) - Self::TILE_N as i32
    }

    /// Whether every row of the CTA sees all keys of tile `n`, and they are as many as a tile holds.
    #[inline(always)]
    fn is_whole(&self, key_tiles: &impl KeyTiles, n: i32) -> bool {
        match key_tiles.gathered(n) {
            Some(Gathered { count, .. }) => count == Self::TILE_N,
            None => n <= self.whole_tiles(),
        }
    }

    /// One tile of keys, `n`; returns the next one. `MASKED` is for tiles of which some row does not see some key.
    ///
    /// # Safety
    /// Reached by all threads of the CTA; the keys' copies have begun.
    #[inline(always)]
    unsafe fn step<E: Element, K: KeyTiles, const MASKED: bool>(
        &self,
        acc: &mut Accumulators<MT, DT>,
        key_tiles: &mut K,
        n: i32,
    ) -> i32 {
        // SAFETY: the caller's; tiles are read after the barriers that say they are there and written after those that
        // say they are free.
        unsafe {
            let next = if MASKED { key_tiles.advance_behind_mask() } else { key_tiles.advance() };
            cp_async_wait_group::<0>();
            barrier::sync();
            self.begin(key_tiles, &self.values, self.v_smem, n, MASKED);
            let mut scores = self.scores::<E>();

            cp_async_wait_group::<0>();
            let gathered = key_tiles.gathered(n);
            // All rows see the keys that are gathered.
            let non_finite_values = MASKED && {
                let found = gathered.is_none() && non_finite::clear::<E>(self.values.chunks(self.v_smem));
                barrier::sync_any(found)
            };
            if !MASKED {
                barrier::sync();
            }
            if next >= 0 {
                let cut = MASKED || K::WHOLE_FIRST && next > self.whole_tiles();
                self.begin(key_tiles, &self.keys, self.k_smem, next, cut);
            }

            let thread = Thread::current();
            if MASKED {
                for i in 0..MT {
                    for half in 0..2 {
                        let limit = match gathered {
                            Some(Gathered { count, .. }) => count as i32,
                            None => self.tile.mask.limit(thread.row(MT, i, half)) - n,
                        };
                        hide(&mut scores[i], half, limit - thread.column() as i32);
                    }
                }
            }
            acc.weigh(&mut scores, self.tile.softmax_scale.log2);
            acc.add_values::<E, NT>(&scores, opaque(self.v_lane), Self::TILE_N);
            if non_finite_values {
                let limits = |i, half| self.tile.mask.limit(thread.row(MT, i, half));
                let column = self.tile.v + (thread.column() * ELEMENT_BYTES) as u64;
                let keys = n..self.key_limit.min(n + Self::TILE_N as i32);
                non_finite::carry::<E, MT, DT>(&mut acc.out, column, self.tile.v_row_bytes, keys, limits);
            }
            next
        }
    }

    /// `Q K^T` for the warp's rows.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; queries and keys are in shared memory.
    #[inline(always)]
    unsafe fn scores<E: Element>(&self) -> [[[f32; 4]; NT]; MT] {
        let mut scores = [[[0.0; 4]; NT]; MT];
        let (q_lane, k_lane) = (opaque(self.q_lane), opaque(self.k_lane));
        for k in 0..DT / 2 {
            // SAFETY: the caller's; all addresses are inside the tiles.
            unsafe {
                let mut queries = [[0; 4]; MT];
                for i in 0..MT {
                    queries[i] =
                        ldmatrix_x4(step_columns(q_lane, Self::TILE_M, k as u32) + i as u32 * ROWS_16);
                }
                for n in 0..NT / 2 {
                    let [b0, b1, b2, b3] =
                        ldmatrix_x4(step_columns(k_lane, Self::TILE_N, k as u32) + n as u32 * ROWS_16);
                    for i in 0..MT {
                        E::mma(&mut scores[i][2 * n], queries[i], [b0, b1]);
                        E::mma(&mut scores[i][2 * n + 1], queries[i], [b2, b3]);
                    }
                }
            }
        }
        scores
    }
}

impl Thread {
    /// The row of the CTA's tile whose scores are in fragment `i` of `MT`, at `2 * half` and the next.
    #[inline(always)]
    pub(super) fn row(self, mt: usize, i: usize, half: usize) -> u32 {
        (self.warp * mt as u32 + i as u32) * 16 + half as u32 * 8 + self.lane / 4
    }

    /// The first column of each fragment that this lane holds.
    #[inline(always)]
    pub(crate) fn column(self) -> u32 {
        self.lane % 4 * 2
    }
}

/// The address a lane gives to `ldmatrix` for the first fragment at row `row` of a tile.
#[inline(always)]
pub(crate) fn fragment(smem: u32, rows: u32, row: u32, lane: (u32, u32)) -> u32 {
    smem + chunk_offset(rows, row + lane.0, lane.1)
}

/// Applies the sign of the scale to this thread's chunks of queries, once they have arrived.
///
/// # Safety
/// The chunks are this thread's own copies.
#[inline(always)]
pub(crate) unsafe fn sign_queries(chunks: impl Iterator<Item = u32>, scale: SoftmaxScale) {
    if scale.query_and == u32::MAX && scale.query_xor == 0 {
        return;
    }
    cp_async_wait_group::<0>();
    for chunk in chunks {
        // SAFETY: the caller's.
        unsafe {
            let words = ld_shared_v4_b32(chunk);
            st_shared_v4_b32(chunk, words.map(|q| (q & scale.query_and) ^ scale.query_xor));
        }
    }
}

/// Attention of a tile of rows over the tiles of keys that `key_tiles` finds.
///
/// # Safety
/// Reached by all threads of the CTA, with `TILE_M + 2 TILE_N` rows of shared memory; the tile's addresses are those of
/// tensors that hold its rows and the keys before its mask's limits.
#[inline(always)]
pub(crate) unsafe fn forward<E: Element, K: KeyTiles, const MT: usize, const NT: usize, const DT: usize>(
    tile: &RowTile,
    mut key_tiles: K,
) {
    let (tile_m, tile_n) = (Mainloop::<MT, NT, DT>::TILE_M, Mainloop::<MT, NT, DT>::TILE_N);
    let row_bytes = DT as u32 * 16;
    let q_smem = dynamic_smem();
    let k_smem = q_smem + tile_m * row_bytes;
    let v_smem = k_smem + tile_n * row_bytes;
    // SAFETY: the caller's.
    unsafe {
        let thread = Thread::current();
        let rows = tile.rows.min(tile_m);
        let mainloop = Mainloop::<MT, NT, DT> {
            tile,
            keys: TileCopy::new(thread.index, tile_n, tile.k, tile.k_row_bytes),
            values: TileCopy::new(thread.index, tile_n, tile.v, tile.v_row_bytes),
            k_smem,
            v_smem,
            q_lane: fragment(
                q_smem,
                tile_m,
                thread.row(MT, 0, 0) - thread.lane / 4,
                rows_then_columns(thread.lane),
            ),
            k_lane: fragment(k_smem, tile_n, 0, columns_then_rows(thread.lane)),
            v_lane: fragment(v_smem, tile_n, 0, rows_then_columns(thread.lane)),
            key_limit: tile.key_limit(tile_m),
        };
        let mut acc = Accumulators::<MT, DT>::ZERO;

        let mut n = key_tiles.advance();
        if !K::WHOLE_FIRST {
            while n >= mainloop.key_limit {
                n = key_tiles.advance();
            }
        }
        if K::GATHERS {
            barrier::sync();
        }
        if n >= 0 {
            let queries = TileCopy::<DT>::new(thread.index, tile_m, tile.q, tile.q_row_bytes);
            queries.cut(q_smem, 0, rows as i32);
            cp_async_commit_group();
            sign_queries(queries.chunks(q_smem), tile.softmax_scale);
            mainloop.begin(&key_tiles, &mainloop.keys, k_smem, n, true);
        }
        if K::WHOLE_FIRST {
            while n >= 0 && mainloop.is_whole(&key_tiles, n) {
                n = mainloop.step::<E, K, false>(&mut acc, &mut key_tiles, n);
            }
            while n >= 0 {
                n = mainloop.step::<E, K, true>(&mut acc, &mut key_tiles, n);
            }
        } else {
            let whole_tiles = mainloop.whole_tiles();
            while n > whole_tiles && n >= 0 {
                n = mainloop.step::<E, K, true>(&mut acc, &mut key_tiles, n);
            }
            while n >= 0 {
                n = mainloop.step::<E, K, false>(&mut acc, &mut key_tiles, n);
            }
        }
        epilogue::finish::<E, MT, DT>(acc, tile, q_smem, rows);
    }
}
