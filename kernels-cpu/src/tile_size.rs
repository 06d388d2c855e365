//! Tile sizes of the attention engine.

use crate::simd::matmul::PANEL;

/// Query rows that are worked on together: their logits, weights and outputs stay in the second-level cache.
pub(crate) const ROW_TILE: usize = 128;

/// Keys between two updates of the running maximum.
pub(crate) const KEY_TILE: usize = 128;

/// Rows that are worked on together where the causal diagonal leaves some rows of a tile fewer keys than others: of 128 x 128
/// keys, 5/8 are formed.
pub(crate) const DIAGONAL_ROWS: usize = 32;

/// [`KEY_TILE`] in panels.
pub(crate) const KEY_TILE_PANELS: usize = KEY_TILE / PANEL;

/// Panels that one thread packs at a time.
pub(crate) const PACK_CHUNK_PANELS: usize = 16;

/// Elements of a tensor that one thread checks at a time.
pub(crate) const FINITE_CHUNK: usize = 1 << 16;

/// Keys of one split of decode attention. Fixed, so that a row does not depend on the machine or the batch.
pub(crate) const DECODE_SPLIT: usize = 1024;

/// Keys of a tile of decode attention: with all KV heads of a model, this tile and the next fit the second-level cache.
pub(crate) const DECODE_TILE: usize = 64;

/// Rows of the left-hand side that a task of a matrix product takes.
pub(crate) const GEMM_ROWS: usize = 128;

/// Weight panels that a task of a matrix product takes.
pub(crate) const GEMM_PANELS: usize = 16;

/// Inner indices between two stores of the accumulators: a register tile's weights stay in the first-level cache.
pub(crate) const GEMM_INNER: usize = 256;

/// Up to this many rows the time of a matrix product is that of reading the weights.
pub(crate) const GEMV_ROWS: usize = 32;

/// Weight panels of a task then: more tasks than threads even for narrow matrices.
pub(crate) const GEMV_PANELS: usize = 4;

/// Inner indices then: long runs of memory, that stay in the second-level cache for the next rows.
pub(crate) const GEMV_INNER: usize = 2048;

/// Rows per task for a query block of `block_m` rows: equal parts of at most [`ROW_TILE`].
pub(crate) fn row_tile(block_m: usize) -> usize {
    block_m.div_ceil(block_m.div_ceil(ROW_TILE))
}
