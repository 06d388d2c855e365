//! Matrix products.

use super::{ELEMENT_BYTES, WARP};

/// Features of a step: a row of a tile is one round of the banks of shared memory.
pub const GEMM_TILE_K: u32 = 64;

/// Rows of tiles that CTAs walk side by side, column by column.
pub const GEMM_GROUP_M: u32 = 16;

/// The fewest steps that are worth a CTA of their own.
pub const GEMM_MIN_SPLIT_STEPS: u32 = 4;

/// The part of the output that one CTA works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmTile {
    /// Rows.
    pub tile_m: u32,
    /// Columns.
    pub tile_n: u32,
    /// Warps side by side over the rows; the others share the columns, or the features.
    pub warps_m: u32,
    /// Warps that share the features, each with steps of its own.
    pub warps_k: u32,
    /// The most CTAs that share a tile, each with a part of the features.
    pub max_splits: u32,
    /// Steps that are in shared memory or under way.
    pub stages: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit the registers of an SM.
    pub min_ctas_per_sm: u32,
}

/// The fewest rows: the weight passes by once, and its bytes under way keep memory busy. A CTA has 40 KB of them, and 128 CTAs
/// are enough for all memory of today; narrow tiles make as many of 2048 columns, without one of them waiting for another.
pub const GEMM_8X16: GemmTile = GemmTile {
    tile_m: 8,
    tile_n: 16,
    warps_m: 1,
    warps_k: 4,
    max_splits: 1,
    stages: 6,
    threads: 128,
    min_ctas_per_sm: 3,
};

/// Few rows: wider, so that rows are not read more often than the weight.
pub const GEMM_16X64: GemmTile = GemmTile {
    tile_m: 16,
    tile_n: 64,
    warps_m: 1,
    warps_k: 1,
    max_splits: 16,
    stages: 6,
    threads: 128,
    min_ctas_per_sm: 4,
};

/// Up to 64 rows, and where larger tiles would leave multiprocessors idle.
pub const GEMM_64X128: GemmTile = GemmTile {
    tile_m: 64,
    tile_n: 128,
    warps_m: 2,
    warps_k: 1,
    max_splits: 16,
    stages: 3,
    threads: 128,
    min_ctas_per_sm: 3,
};

/// Many rows, and not enough of them for larger tiles.
pub const GEMM_128X128: GemmTile = GemmTile {
    tile_m: 128,
    tile_n: 128,
    warps_m: 2,
    warps_k: 1,
    max_splits: 1,
    stages: 3,
    threads: 128,
    min_ctas_per_sm: 2,
};

/// Many rows: the second-level cache is asked for three quarters of what 128 x 128 ask for. 64 x 64 products of a warp are all
/// that registers hold, and two stages all that the shared memory of compute capabilities 8.6 and 8.9 does.
pub const GEMM_128X256: GemmTile = GemmTile {
    tile_m: 128,
    tile_n: 256,
    warps_m: 2,
    warps_k: 1,
    max_splits: 1,
    stages: 2,
    threads: 256,
    min_ctas_per_sm: 1,
};

impl GemmTile {
    /// Bytes of a step.
    pub const fn stage_bytes(&self) -> u32 {
        (self.tile_m + self.tile_n) * GEMM_TILE_K * ELEMENT_BYTES
    }

    /// Dynamic shared memory of a CTA.
    pub const fn smem_bytes(&self) -> u32 {
        self.warps_k * self.stages * self.stage_bytes()
    }

    /// Sums of a CTA, as it leaves them to the CTAs that share its tile.
    pub const fn floats(&self) -> u32 {
        self.tile_m * self.tile_n
    }

    /// Fragments of a warp: of 16 rows from its first to its last, and of 8 columns.
    pub const fn fragments(&self) -> [u32; 2] {
        let warps_n = self.threads / WARP / self.warps_m / self.warps_k;
        [self.tile_m / self.warps_m / 16, self.tile_n / warps_n / 8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cta_fits_every_gpu() {
        for tile in [GEMM_8X16, GEMM_16X64, GEMM_64X128, GEMM_128X128, GEMM_128X256] {
            // Compute capabilities 8.6 and 8.9 give a CTA 99 KB, and 8.0 gives an SM 164.
            assert!(tile.smem_bytes() <= 99 * 1024, "{tile:?}");
            // Outputs leave through the ring, 16 bits each.
            assert!(tile.floats() * ELEMENT_BYTES <= tile.smem_bytes());
            if tile == GEMM_8X16 {
                continue;
            }
            let [m, n] = tile.fragments();
            assert_eq!(m * n * 16 * 8 * tile.threads / WARP, tile.floats());
        }
    }
}
