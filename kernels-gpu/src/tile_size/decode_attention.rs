//! Decode attention.

use super::{ELEMENT_BYTES, WARP};

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
