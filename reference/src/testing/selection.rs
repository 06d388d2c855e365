//! Comparing selections as sets.

use lacuna_core::{BlockMask, Error, Result};

use super::Case;
use crate::ranking::{Ranking, Slack};

/// What a selection made in `f32` may be: the blocks it must hold and the blocks it may hold. The two differ in the
/// entries whose score lies so close to a cut that rounding decides.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskBounds {
    /// Selected however the close decisions fall.
    pub certain: BlockMask,
    /// Selected for some outcome of the close decisions.
    pub possible: BlockMask,
}

impl MaskBounds {
    /// Relative distance to a cut below which a decision counts as close.
    pub const EPS: f64 = 1e-5;

    /// Blocks of `possible` that are not certain; tests assert that there are few.
    pub fn close_calls(&self) -> usize {
        self.possible.indices().len() - self.certain.indices().len()
    }

    /// Names the first block by which `got` leaves the bounds.
    ///
    /// # Errors
    /// A mask made for another shape or other blocks, a certain block that is missing, a block that is not possible.
    pub fn check(&self, got: &BlockMask) -> Result<()> {
        const OP: &str = "MaskBounds::check";
        let blocks = |mask: &BlockMask| [mask.block_m(), mask.block_n(), mask.num_heads()];
        if blocks(got) != blocks(&self.certain) || got.seqlens() != self.certain.seqlens() {
            return Err(Error::shape(OP, "block_m, block_n, num_heads", blocks(&self.certain), blocks(got)));
        }
        if !got.is_complete() {
            return Err(Error::shape(OP, "indptr", [got.num_rows() + 1], [got.indptr().len()]));
        }
        for b in 0..got.seqlens().batch() {
            for h in 0..got.num_heads() {
                for m in 0..got.m_blocks(b) {
                    let (row, certain, possible) =
                        (got.row(b, h, m), self.certain.row(b, h, m), self.possible.row(b, h, m));
                    let missing = certain.iter().any(|n| !row.contains(n));
                    if missing || row.iter().any(|n| !possible.contains(n)) {
                        let expected = format!(
                            "{certain:?} and of {possible:?} (sequence {b}, head {h}, query block {m})"
                        );
                        return Err(Error::invalid(OP, "row", expected, format_args!("{row:?}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Panics unless [`MaskBounds::check`] accepts `got`.
    ///
    /// # Panics
    /// When it does not, with the reason and the line that repeats the case.
    #[track_caller]
    pub fn assert_contain(&self, got: &BlockMask, case: &Case) {
        if let Err(why) = self.check(got) {
            panic!("{why}\n  repeat: {case}");
        }
    }
}

/// Panics unless `got` holds the `k` largest of `scores`, ascending; scores within `eps` relative of the smallest one
/// taken may stand in for one another. NaN scores come after all numbers.
///
/// # Panics
/// When it does not, with the offending index and the line that repeats the case.
#[track_caller]
pub fn assert_top_k(got: &[u32], scores: &[f64], k: usize, eps: f64, case: &Case) {
    assert_eq!(got.len(), k.min(scores.len()), "entries taken\n  repeat: {case}");
    assert!(got.windows(2).all(|w| w[0] < w[1]), "not ascending: {got:?}\n  repeat: {case}");
    let ranking = Ranking::new(scores);
    let (certain, possible) = (ranking.top(k, Slack::Certain(eps)), ranking.top(k, Slack::Possible(eps)));
    let missing = certain.iter().find(|&&i| !got.contains(&(i as u32)));
    let stray = got.iter().map(|&i| i as usize).find(|i| !possible.contains(i));
    if let Some(i) = missing.copied().or(stray) {
        let which = if missing.is_some() { "misses" } else { "holds" };
        panic!("{which} {i}, whose score is {}\n  repeat: {case}", scores[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_core::{AttentionShape, Seqlens};

    fn fails(got: &[u32], scores: &[f64], k: usize) -> bool {
        std::panic::catch_unwind(|| assert_top_k(got, scores, k, 1e-5, &crate::case!(0))).is_err()
    }

    #[test]
    fn top_k_allows_close_scores_only() {
        let scores = [3.0, 1.0, 2.0, 2.000001, f64::NAN, f64::INFINITY];
        assert!(!fails(&[0, 3, 5], &scores, 3) && !fails(&[0, 2, 5], &scores, 3));
        assert!(!fails(&[0, 1, 2, 3, 5], &scores, 5) && !fails(&[0, 1, 2, 3, 4, 5], &scores, 9));
        assert!(
            fails(&[0, 1, 5], &scores, 3) && fails(&[2, 3, 5], &scores, 3) && fails(&[0, 3, 4], &scores, 3)
        );
        assert!(
            fails(&[0, 5], &scores, 3)
                && fails(&[5, 3, 0], &scores, 3)
                && fails(&[0, 1, 2, 3, 4], &scores, 5)
        );
    }

    #[test]
    fn bounds_name_the_block_that_leaves_them() {
        let shape = AttentionShape::new(1, 1, 16, Seqlens::single(32, 32).unwrap()).unwrap();
        let mask = |rows: [&[u32]; 2]| {
            let mut mask = BlockMask::empty(&shape, 16, 16).unwrap();
            rows.into_iter().for_each(|row| mask.push_row(row).unwrap());
            mask
        };
        let bounds = MaskBounds { certain: mask([&[0], &[1]]), possible: mask([&[0], &[0, 1]]) };
        assert_eq!(bounds.close_calls(), 1);
        assert!(bounds.check(&mask([&[0], &[1]])).is_ok() && bounds.check(&mask([&[0], &[0, 1]])).is_ok());
        let says = |got| bounds.check(&got).unwrap_err().to_string();
        assert!(says(mask([&[0], &[0]])).contains("query block 1"));
        assert!(says(mask([&[0, 1], &[1]])).contains("query block 0"));
        assert!(bounds.check(&BlockMask::empty(&shape, 16, 16).unwrap()).is_err());
        assert!(bounds.check(&BlockMask::dense(&shape, 32, 16, true).unwrap()).is_err());
    }
}
