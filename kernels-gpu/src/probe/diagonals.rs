//! Where probabilities lie in shared memory so that diagonals can be summed.
//!
//! Of each of its 32 rows a warp keeps 64 probabilities: a ring of two steps. The probability of row `i` and key `j` is at
//! column `j - i - 1`, modulo 64: a diagonal is a column, and the lanes of a warp read 32 of them at once. Rows are rotated
//! on top, by 10 columns for every two rows, so that neither a fragment's stores, one probability per lane, nor these loads
//! ever ask a bank twice.

use crate::tile_size::PROBE_DIAGONAL_ROW_BYTES;

/// Bytes of the ring of a warp.
pub(crate) const WARP_BYTES: u32 = 32 * PROBE_DIAGONAL_ROW_BYTES;

/// The bytes by which row `row` is rotated.
const fn rotation(row: u32) -> u32 {
    row / 2 % 4 * 10 * 4
}

/// Where a lane stores its probabilities of the step of keys from `first_key`, a multiple of 32, on: row
/// `16 i + 8 half + lane / 4`, key `8 n + 2 (lane % 4) + c`.
#[inline(always)]
pub(crate) fn store_offset(first_key: u32, lane: u32, i: u32, half: u32, n: u32, c: u32) -> u32 {
    let row = lane / 4;
    // Bytes; what depends on the lane and what on the fragment are one addition apart.
    let lane_column =
        (first_key * 4).wrapping_add(lane % 4 * 8).wrapping_add(rotation(row)).wrapping_sub(row * 4);
    let fragment_column = (n * 32 + c * 4).wrapping_sub(i * 64 + half * 32 + 4);
    row * PROBE_DIAGONAL_ROW_BYTES
        + (lane_column.wrapping_add(fragment_column) % PROBE_DIAGONAL_ROW_BYTES)
        + (16 * i + 8 * half) * PROBE_DIAGONAL_ROW_BYTES
}

/// Where row `row` of a diagonal lies which is complete after the step of keys from `first_key` on: that of the keys
/// `first_key - 31 + lane + row`.
#[inline(always)]
pub(crate) fn load_offset(first_key: u32, lane: u32, row: u32) -> u32 {
    let column = first_key.wrapping_sub(32).wrapping_add(lane) * 4;
    (column.wrapping_add(rotation(row)) % PROBE_DIAGONAL_ROW_BYTES) + row * PROBE_DIAGONAL_ROW_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(first_key: u32, mut store: impl FnMut(u32, u32, u32)) {
        for (i, half, n, c) in (0..32).map(|x| (x / 16, x / 8 % 2, x / 2 % 4, x % 2)) {
            let mut banks = 0u32;
            for lane in 0..32 {
                let (row, key) = (16 * i + 8 * half + lane / 4, first_key + 8 * n + 2 * (lane % 4) + c);
                let offset = store_offset(first_key, lane, i, half, n, c);
                banks |= 1 << (offset / 4 % 32);
                store(row, key, offset);
            }
            assert_eq!(banks, u32::MAX, "a bank conflict");
        }
    }

    #[test]
    fn diagonals_are_found_where_their_probabilities_were_stored() {
        let mut ring = [(0, 0); WARP_BYTES as usize / 4];
        let mut store = |row, key, offset: u32| ring[offset as usize / 4] = (row, key);
        stores(64, &mut store);
        for first_key in [96, 128, 160, 192] {
            stores(first_key, |row, key, offset| ring[offset as usize / 4] = (row, key));
            for row in 0..32 {
                let offsets = (0..32).map(|lane| load_offset(first_key, lane, row));
                let banks = offsets.clone().fold(0u32, |banks, offset| banks | 1 << (offset / 4 % 32));
                assert_eq!(banks, u32::MAX, "a bank conflict");
                for (lane, offset) in (0..).zip(offsets) {
                    assert_eq!(ring[offset as usize / 4], (row, first_key - 31 + lane + row));
                }
            }
        }
    }
}
