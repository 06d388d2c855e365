//! Every tile size, and what follows from it in threads and shared memory.

mod antidiagonal_score;
mod argmax;
mod attention;
mod decode_attention;
mod flex_prefill;
mod gemm;
mod k_means;
mod probe;
mod rms_norm;
mod rope;
mod sample;
mod select;
mod silu_mul;

pub use antidiagonal_score::*;
pub use argmax::*;
pub use attention::*;
pub use decode_attention::*;
pub use flex_prefill::*;
pub use gemm::*;
pub use k_means::*;
pub use probe::*;
pub use rms_norm::*;
pub use rope::*;
pub use sample::*;
pub use select::*;
pub use silu_mul::*;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Bytes of a bf16 or f16 element.
pub const ELEMENT_BYTES: u32 = 2;

/// Rows that a CTA of the merge kernels works on: one per warp.
pub const MERGE_ROWS: u32 = 4;

/// Threads of a CTA that gathers rows.
pub const GATHER_THREADS: u32 = 256;

/// Rows whose pieces a thread copies.
pub const GATHER_ROWS_PER_THREAD: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_their_sms() {
        // Shared memory per SM and per CTA of compute capability 8.0, less the 1 KB the driver keeps per CTA.
        let fits = |bytes: u32, ctas: u32| bytes <= 163 * 1024 && ctas * (bytes + 1024) <= 164 * 1024;
        for head_dim in [64, 128] {
            for small in [false, true] {
                let tile = block_sparse_attention(head_dim, small).unwrap();
                assert!(fits(tile.smem_bytes(), tile.min_ctas_per_sm), "{tile:?}");
                // The queries' tile is reused for the outputs; warps own 16 rows or 32.
                assert_eq!(tile.tile_m % (16 * tile.threads / WARP), 0);
            }
            for tall in [false, true] {
                let tile = decode_attention(head_dim, tall).unwrap();
                assert!(fits(tile.smem_bytes(), 2), "{tile:?}");
                assert_eq!(tile.key_warps(), if tall { 1 } else { 4 });
            }
        }
        assert_eq!(dense_attention(128).unwrap().smem_bytes(), 64 * 1024);
        let tile = ANTIDIAGONAL_SCORE;
        assert!(fits(tile.smem_bytes(), tile.min_ctas_per_sm), "{tile:?}");
        assert_eq!(tile.tile_m * tile.tile_n, tile.threads / WARP * 64 * 64);
        for head_dim in [64, 128] {
            let tile = ProductTile::new(head_dim).unwrap();
            let [lse, sums, mass] = [probe_lse_smem_bytes, probe_sums_smem_bytes, column_mass_smem_bytes];
            for bytes in [lse(head_dim), sums(head_dim), mass(head_dim)] {
                assert!(fits(bytes, tile.min_ctas_per_sm), "{tile:?} {bytes}");
            }
        }
    }

    #[test]
    fn chunks_of_the_probe_are_few_and_cover_the_keys() {
        for n in [0, 1, 1024, 1025, 0x8000, 0xffff, 0x1_0000, 0x1_0001, 0x2_0000, 0x10_0000, (1 << 30) - 1] {
            let (keys, chunks) = (probe_chunk_keys(n), probe_chunks(n));
            assert!(keys >= 8 * PROBE_ROWS && keys % 32 == 0 && chunks <= PROBE_MAX_CHUNKS, "{n}");
            assert!(chunks as u64 * keys as u64 >= n as u64 && (n <= 0x1_0000 || chunks > 32), "{n}");
        }
    }

    #[test]
    fn no_shorter_sequence_has_more_splits_than_the_maximum() {
        for n in [0, 1, 256, 257, 0x4000, 0x4001, 0x4123, 0x8000, 0x4_0000, 0x4_0001, 0x10_0000] {
            let most = (0..=n).step_by(61).chain([n]).map(decode_splits).max();
            assert!(most.unwrap() <= max_decode_splits(n), "{n}");
            assert!((0..=n).any(|k| decode_splits(k) == max_decode_splits(n)), "{n}");
            assert_eq!(decode_split_keys(n) % decode_attention(128, false).unwrap().tile_n, 0);
        }
    }
}
