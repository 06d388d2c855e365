//! Integers that order as floats do.

/// The key of an entry that is taken before all others.
pub const FORCED: u32 = u32::MAX;

/// The key of a score of any sign: NaN lowest, then -inf up to +inf, the two zeros equal; below [`FORCED`].
///
/// The keys of values that are not negative, as selections by sum take them, are [`amount`]s instead.
#[inline(always)]
pub fn score(x: f32) -> u32 {
    // Without a branch, so that loads are not held up by the keys of those before: the maximum takes NaN to -inf, the sum
    // -0 to 0, and neither changes anything else.
    let bits = (x.max(f32::NEG_INFINITY) + 0.0).to_bits();
    (bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)) - x.is_nan() as u32
}

/// The score of the key [`score`]: NaN for any that is below that of -inf, 0 for either zero.
#[inline(always)]
pub fn of_score(key: u32) -> f32 {
    f32::from_bits(key ^ ((!key as i32 >> 31) as u32 | 1 << 31))
}

/// The key of a value that is not negative: its bits. What is no such number counts as 0.
#[inline(always)]
pub fn amount(x: f32) -> u32 {
    if x > 0.0 { x.to_bits() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_floats_do() {
        let ascending = [f32::NEG_INFINITY, f32::MIN, -1.0, -1e-40, 0.0, 1e-40, 1.0, f32::MAX, f32::INFINITY];
        assert!(ascending.windows(2).all(|w| score(w[0]) < score(w[1])));
        assert_eq!(score(0.0), score(-0.0));
        assert!(score(f32::NAN) < score(f32::NEG_INFINITY) && score(-f32::NAN) == score(f32::NAN));
        assert!(score(f32::INFINITY) < FORCED);
        assert!(ascending.iter().all(|&x| of_score(score(x)) == x));
        assert!(
            of_score(score(-0.0)).to_bits() == 0
                && of_score(score(f32::NAN)).is_nan()
                && of_score(0).is_nan()
        );
        assert!(ascending[4..].windows(2).all(|w| amount(w[0]) < amount(w[1])));
        assert!([f32::NAN, -f32::NAN, -1.0, -0.0, f32::NEG_INFINITY].iter().all(|&x| amount(x) == 0));
    }
}
