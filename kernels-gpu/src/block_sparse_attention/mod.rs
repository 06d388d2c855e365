//! Block-sparse attention over ragged batches: each tile of rows reads the key blocks that its list names.
//!
//! The forward pass of [`crate::forward`], which knows nothing of how the tiles of keys are found. Lists of the block mask
//! are walked from the end; a block of `block_n` keys is `block_n / TILE_N` tiles. The next entry is loaded a block ahead,
//! so that its latency is hidden. Listed blocks beyond the causal diagonal are passed over, those on it masked.
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;

use crate::key_tiles::KeyTiles;

/// The tiles of `TILE_N` keys of the blocks in a list, from the last to the first.
struct ListedTiles<const TILE_N: i32> {
    /// The list, ascending.
    blocks: *const u32,
    /// Blocks not yet begun.
    left: u32,
    /// The last of them, if any.
    ahead: u32,
    /// Keys of a block.
    block_n: i32,
    /// The first key of the block at hand.
    first: i32,
    /// The first key of the tile that was given last; `first` when the block at hand is done.
    n: i32,
}

impl<const TILE_N: i32> ListedTiles<TILE_N> {
    /// The tiles of a list of `len` blocks of `block_n` keys, a multiple of `TILE_N`.
    ///
    /// # Safety
    /// The list is there.
    #[inline(always)]
    unsafe fn new(blocks: *const u32, len: u32, block_n: u32) -> Self {
        let mut tiles = Self { blocks, left: len, ahead: 0, block_n: block_n as i32, first: 0, n: 0 };
        tiles.look_ahead();
        tiles
    }

    #[inline(always)]
    fn look_ahead(&mut self) {
        if self.left > 0 {
            // SAFETY: inside the list that `new` was promised.
            self.ahead = unsafe { self.blocks.add(self.left as usize - 1).read() };
        }
    }
}

impl<const TILE_N: i32> KeyTiles for ListedTiles<TILE_N> {
    #[inline(always)]
    fn advance(&mut self) -> i32 {
        if self.n > self.first {
            self.n -= TILE_N;
        } else if self.left > 0 {
            self.first = self.ahead as i32 * self.block_n;
            self.n = self.first + self.block_n - TILE_N;
            self.left -= 1;
            self.look_ahead();
        } else {
            self.n = -1;
        }
        self.n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_walked_from_the_end() {
        for (block_n, blocks, want) in [
            (64, &[0, 3][..], &[192, 0, -1][..]),
            (128, &[1, 2], &[320, 256, 192, 128, -1]),
            (192, &[0], &[128, 64, 0, -1]),
            (128, &[], &[-1, -1]),
        ] {
            // SAFETY: the list is there.
            let mut tiles = unsafe { ListedTiles::<64>::new(blocks.as_ptr(), blocks.len() as u32, block_n) };
            for &n in want {
                assert_eq!(tiles.advance(), n);
            }
        }
    }
}
