//! Anti-diagonal scores.

use super::ELEMENT_BYTES;

/// The tile one CTA of anti-diagonal scores works on: `tile_m` groups of queries against `tile_n` groups of keys at a
/// time, in slices of [`AntidiagonalTile::SLICE`] features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AntidiagonalTile {
    /// Groups of queries.
    pub tile_m: u32,
    /// Groups of keys of a step.
    pub tile_n: u32,
    /// Slices that are in shared memory or under way.
    pub stages: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit an SM.
    pub min_ctas_per_sm: u32,
}

/// Anti-diagonal scores. The queries of a tile, `tile_m * stride` tokens, are read again for every `tile_n` groups of keys,
/// and no other CTA reads them: 256 wide, one CTA per SM, they stay below the second-level cache of an H100 at stride 8
/// and head dim 128 (132 x 256 KB), and are half the traffic of two CTAs per SM that are 128 wide. 8 warps of 64 x 64 read
/// least from shared memory of what the registers hold.
pub const ANTIDIAGONAL_SCORE: AntidiagonalTile =
    AntidiagonalTile { tile_m: 128, tile_n: 256, stages: 3, threads: 256, min_ctas_per_sm: 1 };

impl AntidiagonalTile {
    /// Features of a slice: a row of 128 bytes.
    pub const SLICE: u32 = 64;

    /// Groups of keys that a warp works on, with a maximum per row of their own.
    pub const STRIP: u32 = 64;

    /// Strips of a step.
    pub const fn strips(&self) -> u32 {
        self.tile_n / Self::STRIP
    }

    /// Bytes of a slice of queries and keys.
    pub const fn stage_bytes(&self) -> u32 {
        (self.tile_m + self.tile_n) * Self::SLICE * ELEMENT_BYTES
    }

    /// Bytes of the maxima and sums of all rows: of each strip of a step, and of the whole row.
    pub const fn row_bytes(&self) -> u32 {
        (self.strips() + 1) * self.tile_m * 8
    }

    /// Dynamic shared memory of a CTA.
    pub const fn smem_bytes(&self) -> u32 {
        self.stages * self.stage_bytes() + self.row_bytes()
    }

    /// Floats of a strip in a CTA's scratch: for each row a maximum, and a sum per block.
    pub const fn strip_floats(&self, groups_per_block: u32) -> u32 {
        (1 + Self::STRIP / groups_per_block) * self.tile_m
    }

    /// Floats of a CTA's scratch where tiles see up to `groups` groups of keys.
    pub const fn slab_floats(&self, groups: u32, groups_per_block: u32) -> u64 {
        let strips = groups.div_ceil(self.tile_n) * self.strips();
        strips as u64 * self.strip_floats(groups_per_block) as u64
    }
}
