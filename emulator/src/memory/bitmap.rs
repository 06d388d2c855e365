//! One bit per byte: has it been written?

use std::ops::Range;

/// Bits with range operations.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// `bits` zeros.
    pub fn new(bits: usize) -> Self {
        Bitmap { words: vec![0; bits.div_ceil(64)] }
    }

    /// Masks of the words that a range covers.
    #[inline(always)]
    fn spans(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let (first, last) = (range.start / 64, range.end.div_ceil(64));
        (first..last).map(move |word| {
            let low = range.start.saturating_sub(word * 64);
            let high = (range.end - word * 64).min(64);
            (word, (u64::MAX >> (64 - high)) & (u64::MAX << low))
        })
    }

    /// Sets or clears a range, which must not be empty.
    #[inline(always)]
    pub fn set(&mut self, range: Range<usize>, value: bool) {
        for (word, mask) in Self::spans(range) {
            if value {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
        }
    }

    /// Whether all of a range is set; true for an empty one.
    #[inline(always)]
    pub fn all(&self, range: Range<usize>) -> bool {
        Self::spans(range).all(|(word, mask)| self.words[word] & mask == mask)
    }

    /// The first bit of a range that is not set.
    pub fn first_clear(&self, range: Range<usize>) -> Option<usize> {
        range.into_iter().find(|&bit| self.words[bit / 64] >> (bit % 64) & 1 == 0)
    }

    /// Copies the bits of a range to another place; they may overlap.
    pub fn copy_from(&mut self, source: &Bitmap, from: Range<usize>, to: usize) {
        for (i, bit) in from.enumerate() {
            let value = source.words[bit / 64] >> (bit % 64) & 1 != 0;
            self.set(to + i..to + i + 1, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_words() {
        let mut bits = Bitmap::new(200);
        bits.set(60..130, true);
        assert!(bits.all(60..130) && bits.all(64..128) && bits.all(70..70));
        assert!(!bits.all(59..130) && !bits.all(60..131));
        assert_eq!(bits.first_clear(100..200), Some(130));
        bits.set(64..65, false);
        assert_eq!(bits.first_clear(60..130), Some(64));
        let mut copy = Bitmap::new(200);
        copy.copy_from(&bits, 60..70, 0);
        assert!(copy.all(0..4) && !copy.all(4..5) && copy.all(5..10));
    }
}
