//! Where the elements of a tile lie in shared memory.
//!
//! Shared memory has 32 banks of 4 bytes; an access is served in phases of 8 lanes x 16 bytes, each of which must touch
//! every bank once. A tile of 16-bit elements is cut into strips of 64 columns, each row of a strip being 128 bytes: one
//! round of the banks. Chunk `c` of 16 bytes of row `r` is stored at chunk `c ^ (r % 8)`, so that 8 rows at one column, as
//! `ldmatrix` reads them, and 8 chunks of one row, as copies write them, both cover all banks. It is the function that
//! Hopper's copy engine calls the 128-byte swizzle.

/// Bytes of a row of a strip.
pub const STRIP_ROW_BYTES: u32 = 128;

/// Bytes of 16 rows of a strip: from a fragment to the one below it.
pub const ROWS_16: u32 = 16 * STRIP_ROW_BYTES;

/// The byte offset of 16-byte chunk `chunk` of row `row` in a tile of `rows` rows.
#[inline(always)]
pub const fn chunk_offset(rows: u32, row: u32, chunk: u32) -> u32 {
    (chunk / 8 * rows + row) * STRIP_ROW_BYTES + ((chunk % 8) ^ (row % 8)) * 16
}

/// From the address of a chunk in the first 16 columns of a tile at a multiple of 128 to that of the same row and half
/// in columns `16 step..`. An exclusive or and an add of constants: no register per address.
#[inline(always)]
pub const fn step_columns(address: u32, rows: u32, step: u32) -> u32 {
    (address ^ (step % 4 * 32)) + step / 4 * rows * STRIP_ROW_BYTES
}

/// The row and chunk whose address lane `lane` gives to `ldmatrix` for a 16 x 16 tile of queries (operand A), or for 16
/// keys x 16 features of values (operand B, transposed on the way).
#[inline(always)]
pub const fn rows_then_columns(lane: u32) -> (u32, u32) {
    (lane % 16, lane / 16)
}

/// The same for 16 keys x 16 features of keys (operand B as stored): the two chunks of 8 keys, then of the next 8.
#[inline(always)]
pub const fn columns_then_rows(lane: u32) -> (u32, u32) {
    (lane % 8 + lane / 16 * 8, lane / 8 % 2)
}

/// Floats between the rows of an f32 tile of `head_dim` columns. The 8 more than needed let the rows that half a warp
/// stores to in pairs of floats begin 8 banks apart.
pub const fn f32_row(head_dim: u32) -> u32 {
    head_dim + 8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics unless the accesses of `bytes` each, made together, touch no bank twice.
    fn assert_conflict_free(addresses: impl Iterator<Item = u32>, bytes: u32) {
        let mut banks = [0; 32];
        for address in addresses {
            assert_eq!(address % bytes, 0);
            for word in 0..bytes / 4 {
                banks[((address / 4 + word) % 32) as usize] += 1;
            }
        }
        assert!(banks.iter().all(|&n| n == 1), "{banks:?}");
    }

    #[test]
    fn chunks_fill_the_tile() {
        for (rows, chunks) in [(64, 8), (64, 16), (128, 8), (128, 16), (16, 16)] {
            let mut seen: Vec<u32> =
                (0..rows).flat_map(|r| (0..chunks).map(move |c| chunk_offset(rows, r, c))).collect();
            seen.sort();
            assert!(seen.into_iter().eq((0..rows * chunks).map(|i| 16 * i)));
        }
    }

    #[test]
    fn ldmatrix_hits_every_bank_once() {
        for lane_map in [rows_then_columns, columns_then_rows] {
            for (rows, columns) in [(64, 128), (128, 64), (16, 128)] {
                for first_row in (0..rows).step_by(16) {
                    for step in 0..columns / 16 {
                        let address = |lane| {
                            let (row, chunk) = lane_map(lane);
                            let base = chunk_offset(rows, row, chunk) + first_row / 16 * ROWS_16;
                            let address = step_columns(base, rows, step);
                            assert_eq!(address, chunk_offset(rows, first_row + row, 2 * step + chunk));
                            address
                        };
                        for phase in 0..4 {
                            assert_conflict_free((8 * phase..8 * phase + 8).map(address), 16);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn copies_and_rows_of_outputs_hit_every_bank_once() {
        for (rows, chunks) in [(64, 8), (64, 16), (128, 8), (128, 16), (16, 8), (16, 16)] {
            // 8 threads in a row move 8 chunks of one row.
            for first in (0..128).step_by(8) {
                let threads = first..first + 8;
                assert_conflict_free(
                    threads.map(|thread| chunk_offset(rows, thread / chunks % rows, thread % chunks)),
                    16,
                );
            }
        }
    }

    #[test]
    fn fragments_of_outputs_hit_every_bank_once() {
        for n in 0..16 {
            let address = |lane: u32| chunk_offset(128, lane / 4, n) + lane % 4 * 4;
            assert_conflict_free((0..32).map(address), 4);
        }
        for head_dim in [64, 128] {
            for half in [0..16, 16..32] {
                let address = |lane: u32| 4 * (lane / 4 * f32_row(head_dim) + lane % 4 * 2);
                assert_conflict_free(half.map(address), 8);
            }
        }
    }
}
