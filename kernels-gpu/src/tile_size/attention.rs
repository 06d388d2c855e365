//! Dense, block-sparse and vertical-slash attention.

use super::ELEMENT_BYTES;

/// The tile one CTA of an attention kernel works on: `tile_m` query rows stay, tiles of `tile_n` keys pass by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionTile {
    /// Features of a head.
    pub head_dim: u32,
    /// Query rows of a CTA.
    pub tile_m: u32,
    /// Keys of a step.
    pub tile_n: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit an SM: the compiler's register limit follows from it.
    pub min_ctas_per_sm: u32,
}

impl AttentionTile {
    /// Bytes of the query tile in shared memory.
    pub const fn q_bytes(&self) -> u32 {
        self.tile_m * self.head_dim * ELEMENT_BYTES
    }

    /// Bytes of one tile of keys, or of values.
    pub const fn kv_bytes(&self) -> u32 {
        self.tile_n * self.head_dim * ELEMENT_BYTES
    }

    /// Dynamic shared memory of a CTA: queries, one tile of keys and one of values.
    pub const fn smem_bytes(&self) -> u32 {
        self.q_bytes() + 2 * self.kv_bytes()
    }
}

/// Dense attention. 4 warps of 32 rows each: fewer rows per warp would read keys and values from shared memory too often,
/// more do not fit the registers. At head dim 64 the outputs leave room for twice the keys.
pub const fn dense_attention(head_dim: u32) -> Option<AttentionTile> {
    match head_dim {
        64 => Some(AttentionTile { head_dim, tile_m: 128, tile_n: 128, threads: 128, min_ctas_per_sm: 2 }),
        128 => Some(AttentionTile { head_dim, tile_m: 128, tile_n: 64, threads: 128, min_ctas_per_sm: 2 }),
        _ => None,
    }
}

/// Block-sparse attention, for mask blocks that are multiples of `tile_m` and `tile_n`: the tile of dense attention, or
/// with `small` one of 64 x 64.
pub const fn block_sparse_attention(head_dim: u32, small: bool) -> Option<AttentionTile> {
    match (head_dim, small) {
        (_, false) => dense_attention(head_dim),
        (64, true) => {
            Some(AttentionTile { head_dim, tile_m: 64, tile_n: 64, threads: 128, min_ctas_per_sm: 4 })
        }
        (128, true) => {
            Some(AttentionTile { head_dim, tile_m: 64, tile_n: 64, threads: 128, min_ctas_per_sm: 3 })
        }
        _ => None,
    }
}

/// Columns that the ring of a CTA of vertical-slash attention holds: those of a gathered tile that warps still copy, fewer
/// than a tile beyond it, and what a chunk of 32 may add. A power of two.
pub const COLUMN_RING: u32 = 256;

/// Vertical-slash attention: the tile of its index.
pub const fn vertical_slash(head_dim: u32) -> Option<AttentionTile> {
    block_sparse_attention(head_dim, true)
}

/// Dynamic shared memory of a CTA of vertical-slash attention: that of the tile, then the ring.
pub const fn vertical_slash_smem_bytes(tile: &AttentionTile) -> u32 {
    tile.smem_bytes() + COLUMN_RING * 4
}
