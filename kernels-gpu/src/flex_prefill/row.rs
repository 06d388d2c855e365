//! A row of the bitmask, word by word.

use crate::block_grid::BlockGrid;
use crate::tile_size::WARP;

/// Bit `i` of the result says whether `32 word + i < limit`.
#[inline(always)]
pub(crate) fn below(limit: u32, word: u32) -> u32 {
    let bits = limit.saturating_sub(word * WARP);
    if bits >= WARP { u32::MAX } else { (1 << bits) - 1 }
}

/// Key blocks minus groups of diagonals: row `m` keeps key block `n` for group `s` if `n + s` is one of
/// `first ..= last` (and `n` is visible).
///
/// Group `s` holds the offsets `s b ..= s b + b - 1`; from positions `t0 ..= t1` they lead to keys from `t0 - s b - b + 1`
/// to `t1 - s b`. With `cover` alone the block of `t1` counts.
#[inline(always)]
pub(crate) fn diagonals(grid: &BlockGrid, m: u32, cover: bool) -> (u32, u32) {
    let (t0, t1) = grid.positions(m);
    let last = t1.max(0) as u32 / grid.block;
    // Block -1 is not there: of what reaches it the visible blocks are those from 0 on.
    let first = ((t0 + 1).max(0) as u32 / grid.block).saturating_sub(1);
    (if cover { last } else { first }, last)
}

/// The 32 bits from bit `at` on of a list of words; zeros behind its end.
#[inline(always)]
pub(crate) fn bits_at(at: u64, words: u64, load: impl Fn(u64) -> u32) -> u32 {
    let (word, shift) = (at / WARP as u64, at as u32 % WARP);
    let load = |word| if word < words { load(word) } else { 0 };
    let low = load(word);
    if shift == 0 {
        return low;
    }
    low >> shift | load(word + 1) << (WARP - shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;

    #[test]
    fn words_of_prefixes() {
        for limit in [0, 1, 31, 32, 33, 64, 70] {
            for n in 0..96 {
                assert_eq!(below(limit, n / 32) >> (n % 32) & 1 == 1, n < limit, "{limit} {n}");
            }
        }
    }

    #[test]
    fn bits_across_words() {
        let list = [0x8000_0001u32, 0xdead_beef, 0x7];
        for at in 0..140u64 {
            let got = bits_at(at, 3, |w| list[w as usize]);
            for i in 0..32 {
                let bit = at + i;
                let want = bit < 96 && list[bit as usize / 32] >> (bit % 32) & 1 == 1;
                assert_eq!(got >> i & 1 == 1, want, "{at} {i}");
            }
        }
    }

    #[test]
    fn diagonals_are_the_blocks_that_their_tokens_touch() {
        for block in [4u32, 8] {
            for (q_len, past) in [(1, 0), (3, 5), (20, 0), (23, 1), (23, 7), (16, 8), (17, 11), (9, 30)] {
                let grid = BlockGrid {
                    q_len,
                    k_len: q_len + past,
                    block: NonZeroU32::new(block).unwrap(),
                    causal: true,
                };
                for m in 0..grid.m_blocks() {
                    let (t0, t1) = grid.positions(m);
                    for s in 0..grid.n_blocks() {
                        let last = t1 - (s * block) as i32;
                        let first = (t0 - (s * block) as i32 - block as i32 + 1).max(0);
                        for n in 0..grid.visible(m) {
                            let touched = last >= 0
                                && (first / block as i32..=last / block as i32).contains(&(n as i32));
                            let (low, high) = diagonals(&grid, m, false);
                            assert_eq!((low..=high).contains(&(n + s)), touched, "{grid:?} {m} {s} {n}");
                            let (low, high) = diagonals(&grid, m, true);
                            assert_eq!((low..=high).contains(&(n + s)), t1 as u32 / block == n + s);
                        }
                    }
                }
            }
        }
    }
}
