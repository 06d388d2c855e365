//! The tile tables of dense and block-sparse attention.

use std::cmp::Reverse;

use lacuna_core::{AttentionShape, Error, Result, Seqlens};
use lacuna_kernels_gpu::params::{Params, SparseQTile};

use crate::launch::MAX_GRID;

/// A tile of query rows, as its table describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Its sequence.
    pub(crate) b: usize,
    /// Its first row, counted from the sequence's first.
    pub(crate) row: usize,
    /// Keys that its last row sees: its cost.
    visible: usize,
}

/// All tiles of `tile_m` rows of a batch, those that see the most keys first: the long ones would otherwise start when the
/// others are done. Ties keep the order of the batch.
pub(crate) fn longest_first(
    op: &'static str,
    shape: &AttentionShape,
    tile_m: usize,
    causal: bool,
) -> Result<Vec<Tile>> {
    let seqlens = &shape.seqlens;
    let count: usize = (0..seqlens.batch()).map(|b| seqlens.seqlen_q(b).div_ceil(tile_m)).sum();
    // Refused before the table is made: it lies along the grid's y.
    let limit = MAX_GRID[1];
    if count > limit {
        let (what, limit) = ("the number of query tiles", limit as u64);
        return Err(Error::TooLarge { op, what, limit, got: count.to_string() });
    }
    let mut tiles = Vec::with_capacity(count);
    for b in 0..seqlens.batch() {
        let (seqlen_q, seqlen_k) = (seqlens.seqlen_q(b), seqlens.seqlen_k(b));
        for row in (0..seqlen_q).step_by(tile_m) {
            let end = (row + tile_m).min(seqlen_q);
            let visible = if causal { (end + seqlen_k).saturating_sub(seqlen_q) } else { seqlen_k };
            tiles.push(Tile { b, row, visible });
        }
    }
    tiles.sort_by_key(|tile| Reverse(tile.visible));
    Ok(tiles)
}

/// The table of kernels whose rows read lists. `list` gives the row of a tile's list for query head 0, and how many rows
/// further that of the next head is.
pub(crate) fn sparse_table(seqlens: &Seqlens, tiles: &[Tile], list: impl Fn(&Tile) -> [usize; 2]) -> Vec<u8> {
    let entry = |tile: &Tile| {
        let [mask_row, mask_row_step] = list(tile);
        SparseQTile {
            q_start: seqlens.cu_seqlens_q()[tile.b],
            q_len: seqlens.seqlen_q(tile.b) as u32,
            k_start: seqlens.cu_seqlens_k()[tile.b],
            k_len: seqlens.seqlen_k(tile.b) as u32,
            row: tile.row as u32,
            mask_row: mask_row as u32,
            mask_row_step: mask_row_step as u32,
        }
    };
    tiles.iter().flat_map(|tile| entry(tile).as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(cu_seqlens_q: &[u32], cu_seqlens_k: &[u32], causal: bool) -> Vec<(usize, usize, usize)> {
        let seqlens = Seqlens::new(cu_seqlens_q.to_vec(), cu_seqlens_k.to_vec()).unwrap();
        let shape = AttentionShape::new(1, 1, 64, seqlens).unwrap();
        let tiles = longest_first("test", &shape, 128, causal).unwrap();
        tiles.iter().map(|t| (t.b, t.row, t.visible)).collect()
    }

    #[test]
    fn causal_tiles_come_by_what_their_last_row_sees() {
        // 300 queries over 400 keys, none, and 130 over 70: rows 0..60 of the last see nothing.
        let got = tiles(&[0, 300, 300, 430], &[0, 400, 450, 520], true);
        assert_eq!(got, [(0, 256, 400), (0, 128, 356), (0, 0, 228), (2, 128, 70), (2, 0, 68)]);
    }

    #[test]
    fn without_a_mask_the_order_of_the_batch_stays_among_equals() {
        let got = tiles(&[0, 129, 130], &[0, 5, 12], false);
        assert_eq!(got, [(1, 0, 7), (0, 0, 5), (0, 128, 5)]);
        assert!(tiles(&[0, 0], &[0, 9], true).is_empty());
    }
}
