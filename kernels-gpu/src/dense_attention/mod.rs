//! Dense attention, full or causal, over ragged batches.
//!
//! The forward pass of [`crate::forward`] over all tiles of keys that the causal mask leaves, from the last to the first.
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;

use crate::key_tiles::KeyTiles;

/// All tiles of `TILE_N` keys before a limit.
struct AllTiles<const TILE_N: i32> {
    /// The first key of the tile that was given last.
    n: i32,
}

impl<const TILE_N: i32> AllTiles<TILE_N> {
    /// The tiles that hold keys before `limit`.
    #[inline(always)]
    fn before(limit: i32) -> Self {
        Self { n: if limit > 0 { (limit + TILE_N - 1) & -TILE_N } else { 0 } }
    }
}

impl<const TILE_N: i32> KeyTiles for AllTiles<TILE_N> {
    #[inline(always)]
    fn advance(&mut self) -> i32 {
        self.n -= TILE_N;
        self.n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_keys_before_the_limit() {
        for (limit, first) in [(1, 0), (64, 0), (65, 64), (300, 256)] {
            let mut tiles = AllTiles::<64>::before(limit);
            for n in (0..=first).rev().step_by(64) {
                assert_eq!(tiles.advance(), n);
            }
            assert!(tiles.advance() < 0);
        }
        assert!(AllTiles::<64>::before(0).advance() < 0 && AllTiles::<64>::before(-70).advance() < 0);
    }
}
