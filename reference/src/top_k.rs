//! The largest entries of a list.

use crate::ranking::{Ranking, Slack};

/// The indices of the `k` largest scores, ascending. Equal scores: the lowest index first. NaN comes after every number.
/// `forced` entries are taken first and count towards `k`; when there are more of them than `k`, all are kept. At most
/// all indices are returned.
///
/// ```
/// use lacuna_reference::top_k;
/// assert_eq!(top_k(&[1.0, 3.0, f64::NAN, 3.0, 2.0], 2, &[]), [1, 3]);
/// assert_eq!(top_k(&[1.0, 3.0, f64::NAN, 3.0, 2.0], 2, &[0]), [0, 1]);
/// ```
///
/// # Panics
/// When a forced index is out of range.
pub fn top_k(scores: &[f64], k: usize, forced: &[u32]) -> Vec<u32> {
    let mut taken = vec![false; scores.len()];
    forced.iter().for_each(|&i| taken[i as usize] = true);
    let budget = k.saturating_sub(taken.iter().filter(|&&t| t).count());
    let free: Vec<usize> = (0..scores.len()).filter(|&i| !taken[i]).collect();
    let scores: Vec<f64> = free.iter().map(|&i| scores[i]).collect();
    for i in Ranking::new(&scores).top(budget, Slack::Exact) {
        taken[free[i]] = true;
    }
    (0..taken.len()).filter(|&i| taken[i]).map(|i| i as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_infinities_and_nan() {
        assert_eq!(top_k(&[5.0; 6], 3, &[]), [0, 1, 2]);
        assert_eq!(top_k(&[f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1.0], 3, &[]), [1, 2, 3]);
        assert_eq!(top_k(&[f64::NAN; 3], 2, &[]), [0, 1]);
        assert_eq!(top_k(&[0.0, -0.0, 0.0], 1, &[]), [0]);
        assert_eq!(top_k(&[1.0, 2.0], 9, &[]), [0, 1]);
        assert_eq!(top_k(&[1.0, 2.0, 3.0], 1, &[0, 1, 1]), [0, 1]);
        assert_eq!(top_k(&[], 3, &[]), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn no_entry_left_out_beats_one_taken(
            scores in prop::collection::vec(-4i32..4, 1..40), k in 0usize..50,
        ) {
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            let taken = top_k(&scores, k, &[]);
            prop_assert_eq!(taken.len(), k.min(scores.len()));
            for &t in &taken {
                for left in (0..scores.len() as u32).filter(|i| !taken.contains(i)) {
                    let (a, b) = (scores[t as usize], scores[left as usize]);
                    prop_assert!(a > b || (a == b && t < left));
                }
            }
        }
    }
}
