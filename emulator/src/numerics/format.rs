//! Floating-point formats and the one place where values are rounded into them.

/// Rounding mode of an instruction: `.rn`, `.rz`, `.rm`, `.rp` (or `.rni .rzi .rmi .rpi` towards an integer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Round {
    /// `.rn`: to the nearest value, ties to even.
    #[default]
    Nearest,
    /// `.rz`: toward zero.
    Zero,
    /// `.rm`: toward minus infinity.
    Down,
    /// `.rp`: toward plus infinity.
    Up,
}

/// A floating-point format of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Bits of the exponent field.
    pub exponent_bits: u32,
    /// Bits of the fraction field.
    pub fraction_bits: u32,
    /// Largest finite magnitude, as bits.
    pub max_finite: u32,
    /// Infinity, or the NaN that stands for overflow where the format has no infinity.
    pub overflow: u32,
    /// The NaN that conversions produce.
    pub nan: u32,
}

impl Format {
    /// IEEE binary32.
    pub const F32: Self = Self {
        exponent_bits: 8,
        fraction_bits: 23,
        max_finite: 0x7f7f_ffff,
        overflow: 0x7f80_0000,
        nan: 0x7fff_ffff,
    };
    /// IEEE binary16.
    pub const F16: Self =
        Self { exponent_bits: 5, fraction_bits: 10, max_finite: 0x7bff, overflow: 0x7c00, nan: 0x7fff };
    /// The upper half of binary32.
    pub const BF16: Self =
        Self { exponent_bits: 8, fraction_bits: 7, max_finite: 0x7f7f, overflow: 0x7f80, nan: 0x7fff };
    /// fp8 with three fraction bits: no infinity, the all-ones pattern is NaN, largest value 448.
    pub const E4M3: Self =
        Self { exponent_bits: 4, fraction_bits: 3, max_finite: 0x7e, overflow: 0x7f, nan: 0x7f };
    /// fp8 with two fraction bits: binary16 cut to eight bits.
    pub const E5M2: Self =
        Self { exponent_bits: 5, fraction_bits: 2, max_finite: 0x7b, overflow: 0x7c, nan: 0x7f };

    /// Total width in bits.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.fraction_bits
    }

    /// Exponent of the smallest normal number, which is also that of the subnormal numbers.
    pub const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    /// The value of `bits`; exact for every format here.
    pub fn value(self, bits: u32) -> f64 {
        let magnitude = bits & ((1 << (self.bits() - 1)) - 1);
        let negative = bits >> (self.bits() - 1) & 1 != 0;
        let sign = if negative { -1.0 } else { 1.0 };
        if magnitude == self.overflow && self.overflow != self.nan {
            return sign * f64::INFINITY;
        }
        if magnitude > self.max_finite {
            return f64::NAN;
        }
        let field = (magnitude >> self.fraction_bits) as i32;
        let fraction = magnitude & ((1 << self.fraction_bits) - 1);
        let (significand, exponent) =
            if field == 0 { (fraction, 0) } else { (fraction | 1 << self.fraction_bits, field - 1) };
        sign * significand as f64 * power_of_two(self.min_exponent() + exponent - self.fraction_bits as i32)
    }

    /// Rounds `x` into the format. A `x` that stands for a number with more digits than f64 holds must have been rounded
    /// to odd; then the result is rounded once.
    ///
    /// Overflow gives infinity or the largest finite value as IEEE 754 says for `round`; `saturate` (`.satfinite`) gives
    /// the largest finite value for overflow and infinities alike.
    pub fn narrow(self, x: f64, round: Round, saturate: bool) -> u32 {
        if x.is_nan() {
            return self.nan;
        }
        let negative = x.is_sign_negative();
        let sign = (negative as u32) << (self.bits() - 1);
        let away = match round {
            Round::Down => negative,
            Round::Up => !negative,
            Round::Nearest | Round::Zero => false,
        };
        if x.is_infinite() {
            return sign | if saturate { self.max_finite } else { self.overflow };
        }
        let bits = x.to_bits() & (u64::MAX >> 1);
        let field = (bits >> 52) as i32;
        // f64 subnormals lie below every format's range: with the smallest exponent they still count as "not zero".
        let (significand, exponent) =
            if field == 0 { (bits, -1022) } else { (bits & ((1 << 52) - 1) | 1 << 52, field - 1023) };
        let below = (self.min_exponent() - exponent).max(0) as u32;
        let shift = (52 - self.fraction_bits + below).min(63);
        let (kept, rest, half) =
            (significand >> shift, significand & ((1 << shift) - 1), 1u64 << (shift - 1));
        let up = match round {
            Round::Nearest => rest > half || (rest == half && kept & 1 != 0),
            _ => away && rest != 0,
        };
        let start = if below > 0 { 0 } else { (exponent - self.min_exponent()) as u64 };
        // The hidden bit of a normal number adds the one that turns `start` into its exponent field; a carry out of the
        // fraction does the same.
        let magnitude = (start << self.fraction_bits) + kept + up as u64;
        if magnitude > self.max_finite as u64 {
            let to_max = saturate || round == Round::Zero || (round != Round::Nearest && !away);
            return sign | if to_max { self.max_finite } else { self.overflow };
        }
        sign | magnitude as u32
    }
}

/// `2^exponent` for exponents of normal f64 numbers.
pub(crate) const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Rounds the exact sum `high + low` to odd: a value between two f64 becomes the one with the odd last digit, so that a
/// later rounding to fewer digits sees on which side of a tie it lies. `|low|` is less than half a unit of `high`; only
/// its sign and whether it is zero matter.
pub(crate) fn round_to_odd(high: f64, low: f64) -> f64 {
    if low == 0.0 || high.to_bits() & 1 != 0 || !high.is_finite() {
        return high;
    }
    let outward = (low > 0.0) == (high > 0.0);
    if high == 0.0 {
        return low;
    }
    f64::from_bits(if outward { high.to_bits() + 1 } else { high.to_bits() - 1 })
}

/// `a + b` rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    round_to_odd(sum, error)
}

/// `numerator / denominator` rounded to odd, for operands with at most 26 significant bits.
pub(crate) fn div_odd(numerator: f64, denominator: f64) -> f64 {
    let quotient = numerator / denominator;
    if !quotient.is_finite() || quotient == 0.0 {
        return quotient;
    }
    let rest = (-quotient).mul_add(denominator, numerator);
    round_to_odd(quotient, if denominator < 0.0 { -rest } else { rest })
}

/// The square root rounded to odd, for an operand with at most 26 significant bits.
pub(crate) fn sqrt_odd(x: f64) -> f64 {
    let root = x.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root;
    }
    round_to_odd(root, (-root).mul_add(root, x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_small_formats_survives_a_round_trip() {
        for format in [Format::F16, Format::BF16, Format::E4M3, Format::E5M2] {
            for bits in 0..1u32 << format.bits() {
                let value = format.value(bits);
                let back = format.narrow(value, Round::Nearest, false);
                if value.is_nan() {
                    assert_eq!(back, format.nan);
                } else {
                    assert_eq!(back, bits, "{format:?} {bits:#x} {value}");
                }
            }
        }
    }

    #[test]
    fn narrowing_to_f32_is_what_the_host_does() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Exponents around the whole f32 range, its subnormal end included.
            let field = 1023 - 155 + (state >> 40) % 290;
            let x = f64::from_bits(state << 63 | field << 52 | (state.rotate_left(17) & ((1 << 52) - 1)));
            assert_eq!(Format::F32.narrow(x, Round::Nearest, false), (x as f32).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        let format = Format::F16;
        for x in [1.0003, -1.0003, 3e-8, -3e-8, 65519.0, 65520.0, -70000.0, 6.1e-5] {
            let of = |round| format.value(format.narrow(x, round, false));
            assert!(of(Round::Down) <= x && x <= of(Round::Up), "{x}");
            assert!(of(Round::Zero).abs() <= f64::abs(x), "{x}");
            assert!(of(Round::Down) != of(Round::Up), "{x}");
        }
        assert_eq!(format.narrow(65520.0, Round::Nearest, false), 0x7c00);
        assert_eq!(format.narrow(65519.9, Round::Nearest, false), 0x7bff);
        assert_eq!(format.narrow(1e9, Round::Zero, false), 0x7bff);
        assert_eq!(format.narrow(-1e9, Round::Up, false), 0xfbff);
        assert_eq!(format.narrow(-1e9, Round::Down, false), 0xfc00);
        assert_eq!(format.narrow(f64::INFINITY, Round::Nearest, true), 0x7bff);
        assert_eq!(Format::E4M3.narrow(464.0, Round::Nearest, true), 0x7e);
        assert_eq!(Format::E4M3.narrow(f64::NEG_INFINITY, Round::Nearest, true), 0xfe);
    }

    #[test]
    fn rounding_to_odd_sees_the_side_of_a_tie() {
        // 1 + 2^-11 is half way between two f16; the smallest crumb decides.
        let tie = 1.0 + power_of_two(-11);
        let crumb = power_of_two(-100);
        assert_eq!(Format::F16.narrow(add_odd(tie, crumb), Round::Nearest, false), 0x3c01);
        assert_eq!(Format::F16.narrow(add_odd(tie, -crumb), Round::Nearest, false), 0x3c00);
        assert_eq!(Format::F16.narrow(tie, Round::Nearest, false), 0x3c00);
    }
}
