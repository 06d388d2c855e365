//! Gathering rows.

use super::Kernel;
use crate::tile_size::GATHER_THREADS;

/// A kernel that gathers rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherRowsKernel {
    /// What to launch.
    pub kernel: Kernel,
}

pub(super) const GATHER_ROWS: [GatherRowsKernel; 1] = [GatherRowsKernel {
    kernel: Kernel {
        name: "gather_rows",
        threads: GATHER_THREADS,
        min_ctas_per_sm: 4,
        dynamic_smem_bytes: 0,
    },
}];

/// The kernel that gathers rows of any element type.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `src` | `*const` | the source |
/// | `index` | `*const u32` | `[rows]`: a token of the source for each row of the output |
/// | `count` | `*const u32`, nullable | how many rows to write, at most `rows`; `rows` if there is none |
/// | `out` | `*mut` | the output |
/// | | [`GatherRowsParams`](crate::params::GatherRowsParams) | |
///
/// Grid: (rows / (threads / pieces, rounded down, times
/// [`GATHER_ROWS_PER_THREAD`](crate::tile_size::GATHER_ROWS_PER_THREAD)), rounded up; heads). Rows from the count on are left
/// as they are, their indices not read; rows with an index beyond the source become zeros.
pub fn gather_rows() -> GatherRowsKernel {
    GATHER_ROWS[0]
}
