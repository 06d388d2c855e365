//! Sums whose rounding errors are carried along.

/// A sum of many numbers, exact to a unit in the last place however many there are: what rounding takes from it is added to
/// the next number (Kahan's summation).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sum {
    value: f32,
    lost: f32,
}

impl Sum {
    /// Nothing yet.
    pub(crate) const ZERO: Self = Self { value: 0.0, lost: 0.0 };

    /// Adds a number.
    #[inline(always)]
    pub(crate) fn add(&mut self, x: f32) {
        // What rounding takes from the sum, exactly, whichever of the two is larger (Knuth).
        let x = x + self.lost;
        let value = self.value + x;
        let of_x = value - self.value;
        let of_value = value - of_x;
        *self = Self { value, lost: (self.value - of_value) + (x - of_x) };
    }

    /// The sum, rounded.
    #[inline(always)]
    pub(crate) fn value(self) -> f32 {
        self.value + self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_numbers_are_not_lost() {
        let mut sum = Sum::ZERO;
        let mut want = 0.0;
        for i in 0..1_000_000 {
            let x = 1e-3 + (i * 37 % 101) as f32 * 1e-6;
            sum.add(x);
            want += x as f64;
        }
        assert!((sum.value() as f64 - want).abs() < 1e-7 * want);
        sum.add(f32::NAN);
        assert!(sum.value().is_nan());
    }
}
