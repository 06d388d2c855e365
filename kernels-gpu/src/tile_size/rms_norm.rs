//! RMSNorm of rows: one CTA each.

use super::WARP;

/// How a CTA holds a row: 16 bytes, 8 features, at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RmsNormTile {
    /// Threads of a CTA.
    pub threads: u32,
    /// Pieces of 16 bytes in the registers of a thread, at most.
    pub pieces: u32,
    /// CTAs per SM.
    pub min_ctas_per_sm: u32,
}

/// For rows of up to 8192 features.
pub const RMS_NORM: RmsNormTile = RmsNormTile { threads: 256, pieces: 4, min_ctas_per_sm: 4 };

/// For rows of up to 65536 features.
pub const RMS_NORM_WIDE: RmsNormTile = RmsNormTile { threads: 1024, pieces: 8, min_ctas_per_sm: 1 };

/// Pieces whose loads a thread begins together.
pub const RMS_NORM_LOADS: u32 = 4;

impl RmsNormTile {
    /// The longest row that fits.
    pub const fn max_hidden(&self) -> u32 {
        self.threads * self.pieces * 8
    }

    /// Shared memory of a CTA: a partial sum per warp.
    pub const fn smem_bytes(&self) -> u32 {
        self.threads / WARP * 4
    }
}

const _: () = assert!(RMS_NORM.max_hidden() == 8192 && RMS_NORM_WIDE.max_hidden() == 65536);
