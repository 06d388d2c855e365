//! Anti-diagonal scores.

use super::{Params, Strides};

params! {
    /// The last parameter of `antidiagonal_score`.
    AntidiagonalParams, 96 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Keys, `[total_k, num_heads_k, head_dim]`.
        k: Strides,
        /// Floats of scratch that belong to one CTA.
        slab: u64,
        /// `softmax_scale * log2(e) / norm`, of any sign: the factor of a mean over pairs of tokens.
        scale_log2: f32,
        /// Tokens of a group: 4, 8 or 16.
        stride: u32,
        /// Slices of 64 features in a head.
        head_slices: u32,
        /// Tokens of a block: the stride times the kernel's groups per block.
        block: u32,
        /// 1 if group `i` sees the groups up to `i + past` ([`AntidiagonalQTile::past`]), 0 if it sees all.
        causal: u32,
        /// 1 if rows of scores hold the blocks that the causal mask leaves visible, 0 if they hold all.
        packed_causal: u32,
        /// 1 if a mean is always over as many pairs as a group has tokens, 0 if over those that exist.
        tail_group: u32,
        /// Query heads.
        num_heads: u32,
        /// Query heads that read one KV head.
        group: u32,
        /// Which query head is the `g`-th that reads KV head `h_k`: `h_k * head_step_k + g * head_step`.
        head_step_k: u32,
        /// See `head_step_k`, and [`AttentionParams::head_step`](super::AttentionParams::head_step).
        head_step: u32,
        /// Tiles in the table.
        tiles: u32,
        /// CTAs of the grid, which take turns over the tiles of all heads.
        ctas: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }

    /// An entry of the tile table of `antidiagonal_score`.
    AntidiagonalQTile, 16 {
        /// Its entry in the table of sequences.
        sequence: u32,
        /// The first group of queries: a multiple of the kernel's `tile_m`.
        first: u32,
        /// Causal, group `i` of the queries sees the groups of keys up to `i + past`.
        past: i32,
        /// The groups of queries from here on see nothing.
        end: u32,
    }
}
