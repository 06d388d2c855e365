//! The probe, column mass and block pooling.

use super::{ELEMENT_BYTES, WARP};

/// The tile one CTA works on that needs products only, not what follows from them: `tile_m` rows stay in registers, tiles of
/// `tile_n` rows pass by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductTile {
    /// Features of a head.
    pub head_dim: u32,
    /// Rows that stay.
    pub tile_m: u32,
    /// Rows of a step.
    pub tile_n: u32,
    /// Steps whose rows are in shared memory or under way.
    pub stages: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit an SM.
    pub min_ctas_per_sm: u32,
}

impl ProductTile {
    /// For a head dim with kernels. Three CTAs share an SM's registers (64 of a thread hold the rows that stay, at head dim
    /// 128) and the shared memory of compute capability 8.0.
    pub const fn new(head_dim: u32) -> Option<Self> {
        match head_dim {
            64 | 128 => {
                Some(Self { head_dim, tile_m: 128, tile_n: 32, stages: 2, threads: 128, min_ctas_per_sm: 3 })
            }
            _ => None,
        }
    }

    /// Bytes of the rows that stay, on their way through shared memory.
    pub const fn staging_bytes(&self) -> u32 {
        self.tile_m * self.head_dim * ELEMENT_BYTES
    }

    /// Bytes of the rows that pass by.
    pub const fn ring_bytes(&self) -> u32 {
        self.stages * self.tile_n * self.head_dim * ELEMENT_BYTES
    }
}

/// The most query rows of the probe: those of a CTA.
pub const PROBE_ROWS: u32 = 128;

/// Keys of a chunk: what a CTA of the probe finishes, and what it finds the partial sums of the softmax of. It depends on
/// the length of the sequence alone, so that its bits do not depend on the batch around it. The second pass reads
/// [`PROBE_ROWS`] more keys than it finishes, and the sums of all chunks: both stay a small part of the chunk's own keys.
pub const fn probe_chunk_keys(k_len: u32) -> u32 {
    let keys = k_len.div_ceil(PROBE_MAX_CHUNKS).next_power_of_two();
    if keys < 1024 { 1024 } else { keys }
}

/// Chunks of a sequence with `k_len` keys.
pub const fn probe_chunks(k_len: u32) -> u32 {
    k_len.div_ceil(probe_chunk_keys(k_len))
}

/// The most chunks of any sequence.
pub const PROBE_MAX_CHUNKS: u32 = 64;

/// Dynamic shared memory of the first pass of the probe: the queries on their way to registers, and the ring of keys.
pub const fn probe_lse_smem_bytes(head_dim: u32) -> u32 {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    tile.staging_bytes() + tile.ring_bytes()
}

/// Bytes of the probabilities of a row that the second pass of the probe keeps: those of the step and of the one before.
pub const PROBE_DIAGONAL_ROW_BYTES: u32 = 2 * 32 * 4;

/// Bytes of the second pass of the probe in which probabilities lie, and the queries before them.
pub const fn probe_diagonal_bytes(head_dim: u32) -> u32 {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    let diagonals = tile.tile_m * PROBE_DIAGONAL_ROW_BYTES;
    if diagonals > tile.staging_bytes() { diagonals } else { tile.staging_bytes() }
}

/// Dynamic shared memory of the second pass of the probe: probabilities, the ring of keys, and what the warps have of the
/// sums: by key, of this step and the last, and by diagonal.
pub const fn probe_sums_smem_bytes(head_dim: u32) -> u32 {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    let warps = tile.threads / WARP;
    probe_diagonal_bytes(head_dim) + tile.ring_bytes() + 3 * warps * tile.tile_n * 4
}

/// Dynamic shared memory of column mass: keys on their way to registers, the ring of queries, and of each of its rows the
/// LSE and the keys it sees.
pub const fn column_mass_smem_bytes(head_dim: u32) -> u32 {
    let tile = ProductTile::new(head_dim).expect("a head dim with a tile");
    tile.staging_bytes() + tile.ring_bytes() + tile.stages * tile.tile_n * 8
}

/// Threads of a CTA of block pooling.
pub const BLOCK_POOL_THREADS: u32 = 128;

/// Dynamic shared memory of block pooling: what the warps have of the sums.
pub const fn block_pool_smem_bytes(head_dim: u32) -> u32 {
    BLOCK_POOL_THREADS / WARP * head_dim * 4
}
