//! FlexPrefill's pattern search.

use super::{Params, Strides};

params! {
    /// The last parameter of all kernels of `flex_prefill`.
    FlexPrefillParams, 72 {
        /// Queries, `[total_q, num_heads, head_dim]`.
        q: Strides,
        /// Query heads.
        num_heads: u32,
        /// KV heads.
        num_heads_k: u32,
        /// Query heads that read one KV head.
        group: u32,
        /// 1: query head `h` reads KV head `h % num_heads_k`, otherwise `h / group`.
        gqa_interleave: u32,
        /// Tokens of a block: 64 or 128, and the most probe rows.
        block: u32,
        /// Words of a row of the bitmask.
        words: u32,
        /// Sequences of up to so many keys attend densely.
        dense_keys: u32,
        /// Share of the attention to cover, in (0, 1).
        gamma: f32,
        /// Heads whose divergence is below are query-aware.
        tau: f32,
        /// Factor of the logits.
        softmax_scale: f32,
        /// The fewest blocks that a head keeps by columns, and by diagonals; at least 1.
        min_blocks: u32,
        /// The most, at least `min_blocks`.
        max_blocks: u32,
        /// What token counts are divided by to become blocks.
        count_divisor: u32,
        /// Bits of [`FlexPrefillParams::QA_ONLY`] and the constants that follow it.
        switches: u32,
    }

    /// What was decided for one (sequence, query head).
    FlexHead, 16 {
        /// One of [`FlexHead::VERTICAL_SLASH`], [`FlexHead::QUERY_AWARE`] and [`FlexHead::DENSE`].
        kind: u32,
        /// Root of the Jensen-Shannon divergence.
        sqrt_jsd: f32,
        /// Block columns kept, the forced one among them.
        vertical_blocks: u32,
        /// Block diagonals kept, the forced one among them.
        slash_blocks: u32,
    }
}

impl FlexPrefillParams {
    /// The fewest probe rows that estimate anything; shorter query runs attend densely.
    const MIN_PROBE: u32 = 16;

    /// Query-aware heads keep the query-aware blocks only.
    pub const QA_ONLY: u32 = 1;
    /// One block diagonal per slash group.
    pub const SLASH_COVER: u32 = 2;
    /// Slashes grouped from column 0.
    pub const TAIL_ALIGN: u32 = 4;
    /// The divergence without token counts, NaN where a weight is 0.
    pub const JSD_WEIGHTED: u32 = 8;
    /// Pooled vectors and logits rounded to the element type.
    pub const PROBE_ROUND: u32 = 16;

    /// Whether a switch is on.
    #[inline(always)]
    pub fn has(&self, switch: u32) -> bool {
        self.switches & switch != 0
    }

    /// Whether a sequence keeps every causal block, without a search.
    #[inline(always)]
    pub fn attends_densely(&self, q_len: u32, k_len: u32) -> bool {
        k_len <= self.dense_keys || k_len < q_len || self.probe_rows(q_len) < Self::MIN_PROBE
    }

    /// Query rows of the probe.
    #[inline(always)]
    pub fn probe_rows(&self, q_len: u32) -> u32 {
        self.block.min(q_len)
    }
}

impl FlexHead {
    /// Columns and diagonals of blocks.
    pub const VERTICAL_SLASH: u32 = 0;
    /// Blocks that mean queries and keys point to, and columns and diagonals of the least number.
    pub const QUERY_AWARE: u32 = 1;
    /// Every causal block; the other fields are 0.
    pub const DENSE: u32 = 2;
}
