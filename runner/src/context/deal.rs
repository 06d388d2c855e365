//! Who gets which blocks.

use std::ops::Range;

/// The items that `rank` of `world_size` ranks gets of `items`: runs in the order of the ranks, the first ones longer by one where
/// it does not come out even. Ranks get nothing where there are more of them than items.
pub(super) fn deal(items: usize, rank: usize, world_size: usize) -> Range<usize> {
    let (each, more) = (items / world_size, items % world_size);
    let start = rank * each + rank.min(more);
    start..start + each + usize::from(rank < more)
}

/// `tokens` tokens in blocks of `block` tokens; the last one may be shorter.
pub(super) fn blocks(tokens: usize, block: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    (0..tokens.div_ceil(block)).map(move |i| i * block..(i + 1).saturating_mul(block).min(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_dealt_out_once_and_evenly() {
        for items in 0..20 {
            for world_size in 1..=6 {
                let parts: Vec<_> = (0..world_size).map(|rank| deal(items, rank, world_size)).collect();
                assert_eq!(
                    parts.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..items).collect::<Vec<_>>()
                );
                let lens = || parts.iter().map(Range::len);
                assert!(lens().max().unwrap() - lens().min().unwrap() <= 1);
                assert!(parts.windows(2).all(|w| w[0].len() >= w[1].len()));
            }
        }
    }

    #[test]
    fn blocks_cover_all_tokens() {
        assert_eq!(blocks(10, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        assert_eq!(blocks(8, 4).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(blocks(0, 4).count(), 0);
        assert!(blocks(3, usize::MAX).eq(std::iter::once(0..3)));
    }
}
