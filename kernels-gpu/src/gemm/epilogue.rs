//! From sums to the output.

use super::mainloop::Sums;
use crate::arch::barrier;
use crate::arch::global::{ld_global_b16, st_global_b32, st_global_v2_b32, st_global_v4_b32};
use crate::arch::shared::{ld_shared_v4_b32, st_shared_b32};
use crate::element::Element;
use crate::forward::Thread;
use crate::smem::chunk_offset;
use crate::tile_size::{ELEMENT_BYTES, GemmTile, WARP};

/// A tile of the output, and what is added to it.
pub(super) struct Output {
    pub(super) tile: GemmTile,
    /// The tile's first element.
    pub(super) address: u64,
    pub(super) row_bytes: u64,
    /// Rows and columns that there are from the first on.
    pub(super) rows: u32,
    pub(super) columns: u32,
    /// The bias of the first column, or 0.
    pub(super) bias: u64,
    /// As [`GemmParams::out_f32`](crate::params::GemmParams::out_f32).
    pub(super) f32: u32,
}

impl Output {
    /// Adds the bias, and writes.
    ///
    /// # Safety
    /// Reached by all lanes of the warp, whose first row and column are `origin`; the shared memory of the tile is free.
    #[inline(always)]
    pub(super) unsafe fn write<E: Element, const MT: usize, const NT: usize>(
        &self,
        thread: Thread,
        origin: [u32; 2],
        smem: u32,
        mut sums: Sums<MT, NT>,
    ) {
        let [_, first_column] = origin;
        // SAFETY: the caller's.
        unsafe {
            if self.bias != 0 {
                for j in 0..NT {
                    let [a, b] = self.bias::<E>(first_column + j as u32 * 8 + thread.column());
                    for i in 0..MT {
                        for half in 0..2 {
                            sums[i][j][2 * half] += a;
                            sums[i][j][2 * half + 1] += b;
                        }
                    }
                }
            }
            if self.f32 == 0 {
                self.write_16::<E, MT, NT>(thread, origin, smem, &sums);
            } else {
                self.write_f32(thread, origin, &sums);
            }
        }
    }

    /// The bias of two columns; 0 for one that does not exist.
    ///
    /// # Safety
    /// There is a bias.
    #[inline(always)]
    unsafe fn bias<E: Element>(&self, column: u32) -> [f32; 2] {
        let of = |column: u32| {
            if column < self.columns {
                // SAFETY: the caller's.
                let bits = unsafe { ld_global_b16(self.bias + (column * ELEMENT_BYTES) as u64) } as u32;
                E::unpack(bits)[0]
            } else {
                0.0
            }
        };
        [of(column), of(column + 1)]
    }

    /// Rounds, and turns the warp's part into pieces of rows by way of shared memory, of which no other warp accesses that
    /// part.
    ///
    /// # Safety
    /// As [`Output::write`].
    #[inline(always)]
    unsafe fn write_16<E: Element, const MT: usize, const NT: usize>(
        &self,
        thread: Thread,
        [first_row, first_column]: [u32; 2],
        smem: u32,
        sums: &Sums<MT, NT>,
    ) {
        let (tile_m, chunks, first_chunk) = (self.tile.tile_m, NT as u32, first_column / 8);
        // SAFETY: the caller's.
        unsafe {
            for i in 0..MT {
                for half in 0..2 {
                    let row = first_row + (i * 16 + half * 8) as u32 + thread.lane / 4;
                    for j in 0..NT {
                        let pair = E::pack(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                        let place = chunk_offset(tile_m, row, first_chunk + j as u32);
                        st_shared_b32(smem + place + thread.column() * ELEMENT_BYTES, pair);
                    }
                }
            }
            barrier::sync_warp();
            let rows_per_pass = WARP / chunks;
            for pass in 0..(16 * MT) as u32 / rows_per_pass {
                let row = first_row + pass * rows_per_pass + thread.lane / chunks;
                let chunk = first_chunk + thread.lane % chunks;
                let piece = ld_shared_v4_b32(smem + chunk_offset(tile_m, row, chunk));
                if row < self.rows && chunk * 8 < self.columns {
                    st_global_v4_b32(self.address + row as u64 * self.row_bytes + chunk as u64 * 16, piece);
                }
            }
        }
    }

    /// From the registers: the pairs of four lanes side by side are 32 bytes of a row, what memory writes at once.
    ///
    /// # Safety
    /// As [`Output::write`].
    #[inline(always)]
    unsafe fn write_f32<const MT: usize, const NT: usize>(
        &self,
        thread: Thread,
        [first_row, first_column]: [u32; 2],
        sums: &Sums<MT, NT>,
    ) {
        for i in 0..MT {
            for half in 0..2 {
                let row = first_row + (i * 16 + half * 8) as u32 + thread.lane / 4;
                if row < self.rows {
                    let address = self.address + row as u64 * self.row_bytes;
                    for j in 0..NT {
                        let column = first_column + j as u32 * 8 + thread.column();
                        let at = address + column as u64 * 4;
                        let [a, b] = [sums[i][j][2 * half], sums[i][j][2 * half + 1]].map(f32::to_bits);
                        // SAFETY: the caller's.
                        unsafe {
                            if self.f32 == 2 && column + 1 < self.columns {
                                st_global_v2_b32(at, [a, b]);
                            } else {
                                if column < self.columns {
                                    st_global_b32(at, a);
                                }
                                if column + 1 < self.columns {
                                    st_global_b32(at + 4, b);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
