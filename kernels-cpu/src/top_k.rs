//! The `k` largest of a list of scores, ties to the lowest index.

use lacuna_core::{Error, Result};

/// Indices of the `k` largest scores, ascending; all of them when there are fewer than `k`.
///
/// Entries of `forced` come before any score, whatever theirs is, and count towards `k`; when there are more than `k`
/// of them, all are kept. Equal scores (0 and -0 are equal) go to the lowest index, NaN comes after everything else.
/// Linear time on average: a selection, not a sort.
///
/// # Errors
/// When `k` is 0, or `forced` has another length than `scores`.
///
/// ```
/// use lacuna_kernels_cpu::top_k::top_k;
/// let scores = [0.1, 0.7, 0.7, f32::NAN, 0.2];
/// assert_eq!(top_k(&scores, 2, None)?, [1, 2]);
/// assert_eq!(top_k(&scores, 2, Some(&[false, false, false, false, true]))?, [1, 4]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn top_k(scores: &[f32], k: usize, forced: Option<&[bool]>) -> Result<Vec<u32>> {
    const OP: &str = "top_k";
    if k == 0 {
        return Err(Error::invalid(OP, "k", "at least 1", k));
    }
    if u32::try_from(scores.len()).is_err() {
        return Err(Error::TooLarge {
            op: OP,
            what: "the number of scores",
            limit: u32::MAX as u64,
            got: scores.len().to_string(),
        });
    }
    let mut k = k;
    if let Some(forced) = forced {
        if forced.len() != scores.len() {
            return Err(Error::shape(OP, "forced", [scores.len()], [forced.len()]));
        }
        k = k.max(forced.iter().filter(|&&f| f).count());
    }
    let (mut keys, mut indices) = (Vec::new(), Vec::new());
    let is_forced = |i: usize| forced.is_some_and(|f| f[i]);
    select(scores.iter().copied(), k, is_forced, &mut keys, &mut indices);
    Ok(indices)
}

/// [`top_k`] into buffers that are reused: `keys` is scratch, `indices` receives the result. Keeps exactly
/// `min(k, scores)` entries, so `k` must not be below the number of forced ones.
pub(crate) fn select(
    scores: impl Iterator<Item = f32>,
    k: usize,
    forced: impl Fn(usize) -> bool,
    keys: &mut Vec<u64>,
    indices: &mut Vec<u32>,
) {
    keys.clear();
    keys.extend(scores.enumerate().map(|(i, x)| {
        let rank = if forced(i) { u32::MAX } else { descending_rank(x) };
        // Inverted, so that ascending keys are descending scores, then ascending indices.
        ((!rank as u64) << 32) | i as u64
    }));
    let k = k.min(keys.len());
    if k < keys.len() && k > 0 {
        keys.select_nth_unstable(k - 1);
    }
    indices.clear();
    indices.extend(keys[..k].iter().map(|&key| key as u32));
    indices.sort_unstable();
}

/// An integer that orders as the float does: NaN lowest, then -inf up to +inf, the two zeros equal. Below `u32::MAX`.
pub(crate) fn descending_rank(x: f32) -> u32 {
    if x.is_nan() {
        return 0;
    }
    let bits = if x == 0.0 { 0 } else { x.to_bits() };
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rank_orders_as_floats_do() {
        let ascending = [f32::NEG_INFINITY, f32::MIN, -1.0, -1e-40, 0.0, 1e-40, 1.0, f32::MAX, f32::INFINITY];
        assert!(ascending.windows(2).all(|w| descending_rank(w[0]) < descending_rank(w[1])));
        assert_eq!(descending_rank(0.0), descending_rank(-0.0));
        assert!(descending_rank(f32::NAN) < descending_rank(f32::NEG_INFINITY));
        assert!(descending_rank(f32::INFINITY) < u32::MAX);
    }

    #[test]
    fn refuses_zero_k_and_a_short_forced_list() {
        assert!(top_k(&[1.0], 0, None).is_err());
        assert!(top_k(&[1.0, 2.0], 1, Some(&[true])).is_err());
        assert_eq!(top_k(&[], 3, None).unwrap(), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn equals_a_stable_sort(
            // Few distinct values, so that ties are common.
            scores in prop::collection::vec(prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, -1.0, 0.0, -0.0, 2.0, 3.5]), 0..60),
            k in 1usize..70,
            seed in any::<u64>(),
        ) {
            let forced: Vec<bool> = (0..scores.len()).map(|i| seed >> (i % 64) & 7 == 7).collect();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            let value = |i: usize| match scores[i] {
                _ if forced[i] => f64::INFINITY,
                x if x.is_nan() => f64::NEG_INFINITY,
                f32::NEG_INFINITY => f64::MIN,
                x => x as f64,
            };
            order.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).unwrap());
            order.truncate(k.max(forced.iter().filter(|&&f| f).count()));
            order.sort();
            let got: Vec<usize> =
                top_k(&scores, k, Some(&forced)).unwrap().into_iter().map(|i| i as usize).collect();
            prop_assert_eq!(got, order);
        }
    }
}
