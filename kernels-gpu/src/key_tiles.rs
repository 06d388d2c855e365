//! How the forward pass learns which keys to read.

/// Finds the tiles of keys that a tile of rows reads, from the last to the first.
pub(crate) trait KeyTiles {
    /// The first key of the next tile, a multiple of `TILE_N`; negative after the last.
    fn advance(&mut self) -> i32;
}
