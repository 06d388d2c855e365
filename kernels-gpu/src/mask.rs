//! Which keys a row sees.

/// The rows of a sequence see the keys before a limit: one that moves on by a key from row to row (causal, bottom-right
/// aligned), or the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    /// No row sees a key from here on.
    k_len: i32,
    /// The limit of row 0, before `k_len` cuts it.
    first: i32,
}

impl Mask {
    /// For lengths below 2^30.
    #[inline(always)]
    pub(crate) fn new(q_len: u32, k_len: u32, causal: bool) -> Self {
        let (q_len, k_len) = (q_len as i32, k_len as i32);
        Self { k_len, first: if causal { k_len - q_len + 1 } else { k_len } }
    }

    /// The mask of the rows from `row` on.
    #[inline(always)]
    pub(crate) fn starting_at(self, row: u32) -> Self {
        // Without a causal mask every limit stays `k_len`.
        Self { first: self.first + row as i32, ..self }
    }

    /// Row `row` sees the keys before this one; none if it is not positive.
    #[inline(always)]
    pub(crate) fn limit(self, row: u32) -> i32 {
        // Without a causal mask `first` is `k_len`, and so is the minimum.
        self.k_len.min(self.first + row as i32)
    }
}

/// Takes the scores of keys that a row does not see to `-inf`.
///
/// `scores` are the accumulators of 8 keys each, of which those of the row are at `2 * half` and the next: keys
/// `8 n + 2 (lane % 4)` and the next. `limit` is the row's, less the first key that the lane holds.
#[inline(always)]
pub(crate) fn hide<const NT: usize>(scores: &mut [[f32; 4]; NT], half: usize, limit: i32) {
    for n in 0..NT {
        for c in 0..2 {
            if (8 * n + c) as i32 >= limit {
                scores[n][2 * half + c] = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_bottom_right_causal_mask() {
        for (q_len, k_len) in [(1, 1), (1, 5), (5, 1), (7, 7), (3, 0)] {
            for row in 0..q_len {
                let sees = |causal: bool| {
                    let limit = Mask::new(q_len, k_len, causal).limit(row);
                    (0..k_len as i32).filter(|&j| j < limit).collect::<Vec<_>>()
                };
                let past = k_len as i32 - q_len as i32;
                assert!(sees(true).into_iter().eq((0..k_len as i32).filter(|&j| j <= row as i32 + past)));
                assert!(sees(false).into_iter().eq(0..k_len as i32));
                for causal in [false, true] {
                    let mask = Mask::new(q_len, k_len, causal);
                    assert_eq!(mask.starting_at(row).limit(0), mask.limit(row));
                }
            }
        }
    }

    #[test]
    fn hides_the_keys_from_the_limit_on() {
        for lane_column in [0, 2, 4, 6] {
            for limit in -3..20 {
                let mut scores = [[1.0f32; 4]; 2];
                hide(&mut scores, 1, limit - lane_column);
                for (n, tile) in scores.iter().enumerate() {
                    for c in 0..2 {
                        let key = 8 * n as i32 + lane_column + c as i32;
                        assert_eq!(tile[2 + c] == 1.0, key < limit);
                    }
                    assert_eq!(tile[..2], [1.0, 1.0]);
                }
            }
        }
    }
}
