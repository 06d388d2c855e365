//! Every tile size, and what follows from it in threads and shared memory.

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Bytes of a bf16 or f16 element.
pub const ELEMENT_BYTES: u32 = 2;

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

/// The tile one CTA of decode attention works on: `tile_m` packed rows (query heads of a group x query tokens) over one
/// split of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeTile {
    /// Features of a head.
    pub head_dim: u32,
    /// Packed rows of a CTA.
    pub tile_m: u32,
    /// Keys of a step.
    pub tile_n: u32,
    /// Steps whose keys and values are in shared memory or under way.
    pub stages: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit an SM.
    pub min_ctas_per_sm: u32,
}

impl DecodeTile {
    /// Warps that share the keys of a step; the other warps have other rows.
    pub const fn key_warps(&self) -> u32 {
        self.threads / WARP * 16 / self.tile_m
    }

    /// Bytes of the packed query rows in shared memory.
    pub const fn q_bytes(&self) -> u32 {
        self.tile_m * self.head_dim * ELEMENT_BYTES
    }

    /// Bytes of one tile of keys, or of values.
    pub const fn kv_bytes(&self) -> u32 {
        self.tile_n * self.head_dim * ELEMENT_BYTES
    }

    /// Dynamic shared memory of a CTA: queries, and the ring of key and value tiles.
    pub const fn smem_bytes(&self) -> u32 {
        self.q_bytes() + 2 * self.stages * self.kv_bytes()
    }
}

/// Decode attention for up to 16 packed rows, or with `tall` for 64 at a time.
pub const fn decode_attention(head_dim: u32, tall: bool) -> Option<DecodeTile> {
    match head_dim {
        64 | 128 => Some(DecodeTile {
            head_dim,
            tile_m: if tall { 64 } else { 16 },
            tile_n: 64,
            stages: 2,
            threads: 128,
            // What the registers leave room for without spills.
            min_ctas_per_sm: match (head_dim, tall) {
                (64, false) => 4,
                (128, true) => 2,
                _ => 3,
            },
        }),
        _ => None,
    }
}

/// Keys of a split of decode attention. It depends on the length of the sequence alone, so that a row's bits do not
/// depend on the batch around it: long enough that partial results stay a few percent of the traffic, short enough that
/// one sequence of 8k tokens and 8 KV heads occupies 256 CTAs.
pub const fn decode_split_keys(k_len: u32) -> u32 {
    match k_len {
        0..=0x4000 => 256,
        0x4001..=0x4_0000 => 512,
        _ => 1024,
    }
}

/// Splits of a sequence with `k_len` keys.
pub const fn decode_splits(k_len: u32) -> u32 {
    k_len.div_ceil(decode_split_keys(k_len))
}

/// The most splits of any sequence with at most `k_len` keys: shorter splits make those of a sequence just below a change
/// of [`decode_split_keys`] more than those of one beyond it.
pub const fn max_decode_splits(k_len: u32) -> u32 {
    let most = decode_splits(k_len);
    let below = match k_len {
        0..=0x4000 => 0,
        0x4001..=0x4_0000 => decode_splits(0x4000),
        _ => decode_splits(0x4_0000),
    };
    if most > below { most } else { below }
}

/// Rows that a CTA of the merge kernels works on: one per warp.
pub const MERGE_ROWS: u32 = 4;

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
