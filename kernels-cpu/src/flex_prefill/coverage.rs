//! How many of the largest values it takes to reach a share of their sum, found without sorting.

/// Where the descending prefix sums of a list of non-negative values pass a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many inclusive prefix sums are at or below the limit.
    pub count: usize,
    /// Bits of the first value that is not within them; all greater values are. `None` when every value is.
    pub threshold_bits: Option<u32>,
    /// How many values equal to the threshold are within, the lowest indices first.
    pub ties: usize,
}

/// Bits of the value that each level of the radix selection looks at: (shift, width). Non-negative floats order as
/// their bits do, and the sign bit is 0.
const LEVELS: [(u32, u32); 3] = [(21, 10), (11, 10), (0, 11)];
const BINS: usize = 1 << 11;

/// Histograms of the radix selection, reused from call to call.
pub(super) struct Coverage {
    count: Box<[u32; BINS]>,
    sum: Box<[f64; BINS]>,
}

impl Coverage {
    pub fn new() -> Self {
        Self { count: Box::new([0; BINS]), sum: Box::new([0.0; BINS]) }
    }

    /// Counts the inclusive prefix sums, in descending order, that are at most `limit`.
    ///
    /// Values must be non-negative and finite. Sums are `f64`, added bin by bin in the order of the list: the order
    /// of equal values does not matter, and the result depends on nothing but the list.
    pub fn cut(&mut self, values: impl Iterator<Item = f32> + Clone, limit: f64) -> Cut {
        let (mut before, mut taken) = (0.0f64, 0usize);
        let (mut prefix, mut prefix_shift) = (0u32, 31u32);
        for (shift, width) in LEVELS {
            self.count.fill(0);
            self.sum.fill(0.0);
            for x in values.clone() {
                let bits = x.to_bits();
                if bits >> prefix_shift == prefix {
                    let bin = (bits >> shift) as usize & ((1 << width) - 1);
                    self.count[bin] += 1;
                    self.sum[bin] += x as f64;
                }
            }
            // The bin that the limit falls into, and what comes before it.
            let mut crossing = None;
            let (mut sum, mut count) = (before, taken);
            for bin in (0..1usize << width).rev().filter(|&bin| self.count[bin] > 0) {
                let after = sum + self.sum[bin];
                if after > limit || prefix_shift < 31 {
                    crossing = Some((bin, sum, count));
                }
                if after > limit {
                    break;
                }
                (sum, count) = (after, count + self.count[bin] as usize);
            }
            // The first level finds no crossing when everything is within. Further levels look into a bin that does
            // cross: should rounding say otherwise there, its least value is the one that does.
            let Some((bin, sum, count)) = crossing else {
                return Cut { count, threshold_bits: None, ties: 0 };
            };
            (before, taken) = (sum, count);
            (prefix, prefix_shift) = (prefix << width | bin as u32, shift);
        }
        let value = f32::from_bits(prefix) as f64;
        let ties = ((limit - before) / value).floor().max(0.0) as usize;
        // The division rounds; the bin as a whole was found to cross.
        let ties = ties.min(self.count[prefix as usize & (BINS - 1)] as usize - 1);
        Cut { count: taken + ties, threshold_bits: Some(prefix), ties }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_sorting(values: &[f32], limit: f64) -> usize {
        let mut sorted = values.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        sorted
            .iter()
            .take_while(|&&x| {
                sum += x as f64;
                sum <= limit
            })
            .count()
    }

    #[test]
    fn counts_ties_and_zeros() {
        let mut coverage = Coverage::new();
        let cut = coverage.cut([0.25f32; 4].into_iter(), 0.5);
        assert_eq!((cut.count, cut.threshold_bits, cut.ties), (2, Some(0.25f32.to_bits()), 2));
        let cut = coverage.cut([0.5f32, 0.0, 0.5, 0.0].into_iter(), 1.0);
        assert_eq!((cut.count, cut.threshold_bits), (4, None));
        let cut = coverage.cut([1.0f32, 0.0].into_iter(), 0.9);
        assert_eq!((cut.count, cut.ties), (0, 0));
        assert_eq!(coverage.cut(std::iter::empty(), 0.5).count, 0);
    }

    proptest! {
        #[test]
        fn equals_sorted_prefix_sums(
            // Multiples of 2^-10, whose sums are exact in any order: no rounding at the cut.
            ints in prop::collection::vec(0u32..2000, 1..300), share in 0u32..=1100,
        ) {
            let values: Vec<f32> = ints.iter().map(|&i| i as f32 / 1024.0).collect();
            let total: f64 = values.iter().map(|&x| x as f64).sum();
            let limit = (total * share as f64 / 1024.0).floor();
            let cut = Coverage::new().cut(values.iter().copied(), limit);
            prop_assert_eq!(cut.count, by_sorting(&values, limit));
            let mut ties = cut.ties;
            let within = values.iter().filter(|x| match cut.threshold_bits {
                None => true,
                Some(t) if x.to_bits() == t && ties > 0 => { ties -= 1; true }
                Some(t) => x.to_bits() > t,
            }).count();
            prop_assert_eq!(within, cut.count);
        }
    }
}
