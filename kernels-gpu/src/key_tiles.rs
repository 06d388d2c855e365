//! How the forward pass learns which keys to read.

/// Finds the tiles of keys that a tile of rows reads.
pub(crate) trait KeyTiles {
    /// Whether tiles without a mask come before those with one. Otherwise tiles come from the last key to the first.
    const WHOLE_FIRST: bool = false;

    /// Whether the keys of some tiles are gathered.
    const GATHERS: bool = false;

    /// The next tile: the first of its consecutive keys, or another number if they are [`KeyTiles::gathered`]; negative
    /// after the last.
    fn advance(&mut self) -> i32;

    /// [`KeyTiles::advance`] behind a tile that was read with a mask.
    #[inline(always)]
    fn advance_behind_mask(&mut self) -> i32 {
        self.advance()
    }

    /// Tile `n`, one of the last two that were given, if its keys are not consecutive. All rows of the tile of rows see
    /// all of them. The list is there behind the next barrier.
    #[inline(always)]
    fn gathered(&self, _n: i32) -> Option<Gathered> {
        None
    }
}

/// Keys whose indices are listed in shared memory.
#[derive(Clone, Copy)]
pub(crate) struct Gathered {
    /// The address of the list, `u32` each.
    pub(crate) list: u32,
    /// How many there are: a whole tile, but for the last.
    pub(crate) count: u32,
}
