//! Groups of tokens: which of them see each other, and over how many pairs.

use core::num::NonZeroU32;

/// The groups of one sequence. The pairs of query group `i` and key group `j` are the tokens `i stride + stride - 1 - s` and
/// `j stride + s` for `s` in `0..stride`, where both exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    /// Tokens.
    pub(crate) q_len: u32,
    pub(crate) k_len: u32,
    /// Groups.
    pub(crate) queries: u32,
    pub(crate) keys: u32,
    /// Tokens of a group.
    pub(crate) stride: u32,
    /// Query group `i` sees the key groups up to `i + past`, if `causal`.
    pub(crate) past: i32,
    pub(crate) causal: bool,
    /// Missing tokens count: every group has `stride`.
    pub(crate) tail_group: bool,
}

impl Groups {
    #[inline(always)]
    pub(crate) fn new(
        q_len: u32,
        k_len: u32,
        stride: NonZeroU32,
        past: i32,
        causal: bool,
        tail_group: bool,
    ) -> Self {
        Self {
            q_len,
            k_len,
            queries: q_len.div_ceil(stride.get()),
            keys: k_len.div_ceil(stride.get()),
            stride: stride.get(),
            past,
            causal,
            tail_group,
        }
    }

    /// Query group `i` sees the key groups before this one; none if it is not positive.
    #[inline(always)]
    pub(crate) fn limit(&self, i: u32) -> i32 {
        let keys = self.keys as i32;
        let limit = if self.causal { keys.min(i as i32 + self.past + 1) } else { keys };
        // Without a pair there is nothing to see.
        if limit == keys && self.pairs(i, true) == 0 { limit - 1 } else { limit }
    }

    /// Pairs of query group `i` and the last key group, or any other.
    #[inline(always)]
    pub(crate) fn pairs(&self, i: u32, last_key: bool) -> u32 {
        let stride = self.stride;
        if self.tail_group {
            return stride;
        }
        // The pairs of a short query group are its last slots, those of a short key group its first.
        let queries = stride.min(self.q_len.saturating_sub(i * stride));
        let keys = if last_key { self.k_len - (self.keys - 1) * stride } else { stride };
        (queries + keys).saturating_sub(stride)
    }

    /// Whether the last key group is as good as any other.
    #[inline(always)]
    pub(crate) fn is_whole(&self) -> bool {
        self.tail_group || self.keys * self.stride == self.k_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_pairs_agree_with_the_tokens() {
        for (q_len, k_len) in [(1, 1), (8, 8), (13, 13), (3, 30), (30, 3), (17, 22), (5, 4), (16, 19)] {
            for stride in [4, 8] {
                for causal in [false, true] {
                    let past = (k_len as i32 - q_len as i32 + stride as i32 - 1).div_euclid(stride as i32);
                    let groups =
                        Groups::new(q_len, k_len, NonZeroU32::new(stride).unwrap(), past, causal, false);
                    for i in 0..groups.queries {
                        let pairs = |j: u32| {
                            (0..stride)
                                .filter(|s| i * stride + stride - 1 - s < q_len && j * stride + s < k_len)
                                .count() as u32
                        };
                        let sees = |j: u32| {
                            let reach = k_len as i32 - q_len as i32 + ((i + 1) * stride) as i32;
                            pairs(j) > 0 && (!causal || ((j * stride) as i32) < reach)
                        };
                        let last = groups.keys - 1;
                        for j in 0..=last {
                            assert_eq!(sees(j), (j as i32) < groups.limit(i), "{groups:?} {i} {j}");
                            assert_eq!(pairs(j), groups.pairs(i, j == last), "{groups:?} {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_tail_group_counts_as_full() {
        let stride = NonZeroU32::new(8).unwrap();
        let groups = Groups::new(9, 9, stride, 0, true, true);
        assert_eq!((groups.limit(0), groups.limit(1), groups.pairs(1, true)), (1, 2, 8));
        assert!(groups.is_whole() && !Groups { tail_group: false, ..groups }.is_whole());
    }
}
