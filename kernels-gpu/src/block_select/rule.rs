//! Which blocks of a row are decided by their scores, and which are not.

use crate::params::BlockSelectParams;

/// One row of blocks: half-open ranges of key blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Blocks that may be kept, from the first on.
    pub(crate) candidates: u32,
    /// The row's own blocks: those that hold the keys at which its queries stand. They end at `candidates` when causal.
    pub(crate) own: (u32, u32),
    /// Blocks that are taken in descending order of their scores.
    pub(crate) ranked: (u32, u32),
    /// Whether the own blocks, and the first block, count as covered from the start.
    pub(crate) own_counts: bool,
    pub(crate) first_counts: bool,
    /// Whether own blocks, and the first block, are kept whatever they score.
    pub(crate) own_kept: bool,
    pub(crate) first_kept: bool,
    /// Whether the published accounting, which lags by one block, holds.
    pub(crate) quirk: bool,
    /// Whether all candidates are kept.
    pub(crate) all: bool,
}

impl Row {
    /// The rule for query block `m` of a sequence.
    #[inline(always)]
    pub(crate) fn new(params: &BlockSelectParams, q_len: u32, k_len: u32, m: u32) -> Self {
        let (block, shift) = (1i64 << params.block_shift, params.block_shift);
        let n_blocks = k_len.div_ceil(1 << shift);
        let causal = params.causal != 0;
        let chunk = if params.chunk == 0 { published_chunk(k_len) } else { params.chunk };
        let align = params.chunk_align_past != 0;
        let past =
            if align { aligned(k_len, chunk) - aligned(q_len, chunk) } else { k_len as i64 - q_len as i64 };

        let first = past + m as i64 * block;
        // To the end of the block: behind the last query lies no key block that does not hold it as well.
        let end = first + block;
        let own_end = if end <= 0 { 0 } else { (((end - 1) >> shift) + 1).min(n_blocks as i64) as u32 };
        let own_start = ((first.max(0) >> shift) as u32).min(own_end);
        let candidates = if causal { own_end } else { n_blocks };

        let quirk = params.first_chunk_quirk != 0 && causal && past == 0 && m < chunk >> shift;
        let forces_first = causal && !quirk;
        let ranked = match causal {
            true => ((forces_first as u32).min(own_start), own_start),
            false => (0, n_blocks),
        };
        let (keep_sink, row_bug) = (params.keep_sink != 0, params.keep_sink_row_bug != 0);
        Self {
            candidates,
            own: (own_start, own_end),
            ranked,
            own_counts: causal,
            first_counts: forces_first,
            own_kept: causal || params.keep_recent != 0,
            first_kept: causal || (keep_sink && !row_bug),
            quirk,
            all: keep_sink && row_bug && m == 0,
        }
    }

    /// Whether block `n` is covered from the start.
    #[inline(always)]
    pub(crate) fn counts(&self, n: u32) -> bool {
        (self.own_counts && self.own.0 <= n && n < self.own.1) || (self.first_counts && n == 0)
    }

    /// Whether block `n` is taken by its score.
    #[inline(always)]
    pub(crate) fn ranks(&self, n: u32) -> bool {
        self.ranked.0 <= n && n < self.ranked.1
    }

    /// Which of the 32 blocks from `first` on are kept whatever they score.
    #[inline(always)]
    pub(crate) fn kept_bits(&self, first: u32) -> u32 {
        let mut bits = 0;
        if self.own_kept {
            bits |= range_bits(first, self.own.0, self.own.1);
        }
        if self.first_kept {
            bits |= range_bits(first, 0, 1);
        }
        bits & range_bits(first, 0, self.candidates)
    }
}

/// The bits of `start..end` in the word that begins at `first`.
#[inline(always)]
pub(crate) fn range_bits(first: u32, start: u32, end: u32) -> u32 {
    let below = |n: u32| {
        let n = n.saturating_sub(first);
        if n < 32 { (1 << n) - 1 } else { u32::MAX }
    };
    below(end) & !below(start)
}

/// The chunk of the published code for a number of keys below 2^30: that power of two, and at least 2048 tokens, of which
/// chunk times length stays within 2^28.
#[inline(always)]
fn published_chunk(k_len: u32) -> u32 {
    let log2 = 32 - (k_len.max(1) - 1).leading_zeros();
    let fits = if log2 <= 28 { 1 << (28 - log2) } else { 0 };
    (1u32 << log2).max(2048).min(fits).max(2048)
}

/// A length rounded up to whole chunks.
#[inline(always)]
fn aligned(len: u32, chunk: u32) -> i64 {
    // The launcher passes no chunk of 0. Written so that no panic is left in the kernel.
    let chunks = (len + chunk - 1).checked_div(chunk);
    chunks.map_or(0, |chunks| chunks as i64 * chunk as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: BlockSelectParams = BlockSelectParams {
        block_shift: 4,
        words: 0,
        chunk: 0,
        causal: 0,
        packed_causal: 0,
        keep_sink: 0,
        keep_recent: 0,
        first_chunk_quirk: 0,
        keep_sink_row_bug: 0,
        chunk_align_past: 0,
    };

    #[test]
    fn own_blocks_hold_the_positions_of_the_queries() {
        for (q_len, k_len) in [(1, 1), (40, 40), (33, 100), (100, 33), (16, 16), (20, 0), (5, 1000)] {
            for m in 0..u32::div_ceil(q_len, 16) {
                let past = k_len as i64 - q_len as i64;
                let positions = (m * 16..((m + 1) * 16).min(q_len)).map(|row| row as i64 + past);
                let holds =
                    |n: u32| positions.clone().any(|position| position >= 0 && position / 16 == n as i64);
                let causal = Row::new(&BlockSelectParams { causal: 1, ..NO }, q_len, k_len, m);
                let whole = Row::new(&NO, q_len, k_len, m);
                assert_eq!(whole.candidates, k_len.div_ceil(16));
                assert_eq!(
                    causal.candidates,
                    (0..whole.candidates).filter(|&n| holds(n)).max().map_or(0, |n| n + 1)
                );
                for n in 0..whole.candidates {
                    assert_eq!(
                        causal.own.0 <= n && n < causal.own.1,
                        holds(n),
                        "{q_len} of {k_len}, {m}, {n}"
                    );
                    let is_candidate = n < causal.candidates;
                    let forced = is_candidate && (holds(n) || n == 0);
                    assert_eq!(causal.counts(n) && is_candidate, forced);
                    assert_eq!(causal.ranks(n), is_candidate && !forced);
                    assert_eq!(causal.kept_bits(n) & 1 != 0, forced);
                    assert!(whole.ranks(n) && !whole.counts(n) && whole.kept_bits(n) == 0);
                }
            }
        }
    }

    #[test]
    fn switches_of_the_published_code() {
        let quirk = BlockSelectParams { causal: 1, first_chunk_quirk: 1, chunk: 32, ..NO };
        let row = |params: &BlockSelectParams, lens: (u32, u32), m| Row::new(params, lens.0, lens.1, m);
        // Two blocks to a chunk, and no past.
        assert!([0, 1, 2].map(|m| row(&quirk, (48, 48), m).quirk) == [true, true, false]);
        assert!(!row(&quirk, (48, 64), 0).quirk);
        assert_eq!(row(&quirk, (48, 48), 1).ranked, (0, 1));
        assert_eq!(row(&quirk, (48, 48), 2).ranked, (1, 2));
        // 40 and 70 tokens are 2 and 3 chunks: a past of 32, in whole blocks.
        let aligned = BlockSelectParams { causal: 1, chunk_align_past: 1, chunk: 32, ..NO };
        assert_eq!([0, 1, 2].map(|m| row(&aligned, (40, 70), m).own), [(2, 3), (3, 4), (4, 5)]);
        assert_eq!([0, 1, 2].map(|m| row(&aligned, (70, 40), m).own), [(0, 0), (0, 0), (0, 1)]);
        let sink = BlockSelectParams { keep_sink: 1, keep_recent: 1, ..NO };
        assert_eq!([0, 1].map(|m| row(&sink, (32, 48), m).kept_bits(0)), [0b011, 0b101]);
        let bug = BlockSelectParams { keep_sink_row_bug: 1, ..sink };
        assert!([0, 1].map(|m| row(&bug, (32, 48), m).all) == [true, false]);
        assert_eq!(row(&bug, (32, 48), 1).kept_bits(0), 0b100);
    }

    #[test]
    fn bits_of_ranges() {
        for (first, start, end) in
            [(0, 0, 0), (0, 1, 5), (32, 0, 40), (32, 33, 64), (64, 0, 64), (0, 31, 99), (0, 5, 2)]
        {
            let bits = range_bits(first, start, end);
            for i in 0..32 {
                assert_eq!(
                    bits >> i & 1 != 0,
                    (start..end).contains(&(first + i)),
                    "{first} {start}..{end} bit {i}"
                );
            }
        }
    }

    #[test]
    fn chunks_of_the_published_code() {
        for k_len in [0, 1, 2, 1000, 2048, 2049, 1 << 14, (1 << 14) + 1, 1 << 17, 1 << 20, (1 << 30) - 1] {
            let n = k_len.max(1usize).next_power_of_two();
            assert_eq!(
                published_chunk(k_len as u32) as usize,
                n.max(2048).min((1 << 28) / n).max(2048),
                "{k_len}"
            );
        }
        assert_eq!([aligned(0, 64), aligned(1, 64), aligned(64, 64), aligned(65, 64)], [0, 64, 64, 128]);
    }
}
