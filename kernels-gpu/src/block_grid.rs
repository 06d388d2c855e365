//! Which blocks of keys the blocks of queries of one sequence see.

use core::num::NonZeroU32;

/// The blocks of one sequence: `block` tokens each, of queries counted from the first query of the call, of keys from the
/// sequence's first key. Lengths are below 2^30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGrid {
    /// Query tokens.
    pub q_len: u32,
    /// Key tokens.
    pub k_len: u32,
    /// Tokens of a block.
    pub block: NonZeroU32,
    /// Whether the bottom-right aligned causal mask holds: query `i` sees the keys up to `i + k_len - q_len`.
    pub causal: bool,
}

impl BlockGrid {
    /// Blocks of queries.
    #[inline(always)]
    pub fn m_blocks(&self) -> u32 {
        self.blocks_of(self.q_len)
    }

    /// Blocks of keys.
    #[inline(always)]
    pub fn n_blocks(&self) -> u32 {
        self.blocks_of(self.k_len)
    }

    /// The keys at which the first and the last query of block `m` stand; negative before the first key.
    #[inline(always)]
    pub fn positions(&self, m: u32) -> (i32, i32) {
        let past = self.k_len as i32 - self.q_len as i32;
        let (first, end) = (m * self.block.get(), (m + 1) * self.block.get());
        (past + first as i32, past + end.min(self.q_len) as i32 - 1)
    }

    /// How many blocks, from the first on, some query of block `m` sees.
    #[inline(always)]
    pub fn visible(&self, m: u32) -> u32 {
        if !self.causal {
            return self.n_blocks();
        }
        let (_, last) = self.positions(m);
        if last < 0 { 0 } else { last as u32 / self.block + 1 }
    }

    /// The first of the blocks that hold the keys at which the queries of block `m` stand; the others follow it up to
    /// [`BlockGrid::visible`].
    #[inline(always)]
    pub fn diagonal(&self, m: u32) -> u32 {
        let (first, _) = self.positions(m);
        first.max(0) as u32 / self.block
    }

    /// The sum of [`BlockGrid::visible`] over the query blocks before `m`: where the row of block `m` begins when the rows
    /// of visible blocks lie one behind the other.
    #[inline(always)]
    pub fn offset(&self, m: u32) -> u64 {
        if !self.causal {
            return m as u64 * self.n_blocks() as u64;
        }
        if m == 0 {
            return 0;
        }
        // Of blocks that are full, the `r`-th sees `r + 1 + ceil(past / block)`; the last may not be.
        let past = self.k_len as i32 - self.q_len as i32;
        let shift = if past >= 0 {
            self.blocks_of(past as u32) as i32
        } else {
            -((past.unsigned_abs() / self.block) as i32)
        };
        let blind = shift.min(0).unsigned_abs();
        let full = m - 1;
        let rows = full.saturating_sub(blind) as u64;
        let first = (blind as i32 + 1 + shift) as u64;
        rows * first + rows * rows.saturating_sub(1) / 2 + self.visible(full) as u64
    }

    #[inline(always)]
    fn blocks_of(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_with_the_mask_token_by_token() {
        for (q_len, k_len) in
            [(1, 1), (9, 9), (16, 16), (5, 23), (23, 5), (17, 0), (8, 64), (64, 8), (31, 33)]
        {
            for block in [1, 4, 8, 16] {
                for causal in [false, true] {
                    let grid = BlockGrid { q_len, k_len, block: NonZeroU32::new(block).unwrap(), causal };
                    let mut sum = 0;
                    for m in 0..grid.m_blocks() {
                        let rows = (m * block) as i32..((m + 1) * block).min(q_len) as i32;
                        let past = k_len as i32 - q_len as i32;
                        let seen = |n: u32| {
                            (n * block..((n + 1) * block).min(k_len))
                                .any(|key| !causal || rows.clone().any(|row| key as i32 <= row + past))
                        };
                        let visible = (0..grid.n_blocks()).filter(|&n| seen(n)).count() as u32;
                        assert_eq!(grid.visible(m), visible, "{grid:?} {m}");
                        assert_eq!(grid.offset(m), sum, "{grid:?} {m}");
                        sum += visible as u64;
                        assert_eq!(grid.positions(m), (rows.start + past, rows.end + past - 1));
                        let holds = |n: u32| rows.clone().any(|row| (row + past).max(0) as u32 / block == n);
                        assert_eq!(Some(grid.diagonal(m)), (0..=k_len + 1).find(|&n| holds(n)));
                    }
                    assert_eq!(grid.offset(grid.m_blocks()), sum);
                }
            }
        }
    }
}
