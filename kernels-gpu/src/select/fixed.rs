//! Sums that decide: non-negative floats in 64-bit fixed point, and shares of their sums.
//!
//! Integers add to the same sum in any order, so that a decision depends neither on which thread comes first nor on how
//! many there are, and an entry that covers a limit exactly does so for every order. A value is cut to multiples of 2^-40;
//! from there on everything is exact, comparisons with a share of a sum included. A float of 2^-17 or more keeps all its
//! bits. Below that, what is cut off is less than 2^-40 of an entry: of sums around 1, as attention weights and their means
//! have them, a million entries lose less than 2^-20, and what they decide lies within 1e-5 of the cut.
//!
//! Values reach up to 2^23, larger ones count as that; sums must stay below 2^24.

/// Binary places behind the point.
pub const FRACTION_BITS: u32 = 40;

/// Where the exponent of a float puts a significand of 24 bits: bit 0 stands for `2^(exponent - 150)`.
const EXPONENT_BIAS: u32 = 150;
/// The largest exponent of values: those below 2^23.
const MAX_EXPONENT: u32 = EXPONENT_BIAS - 1;
const SIGNIFICAND: u32 = (1 << 23) - 1;
const HIDDEN_BIT: u32 = 1 << 23;

/// The number `x` of the key [`super::key::amount`], in multiples of `2^-40`, rounded down.
#[inline(always)]
pub fn of_key(key: u32) -> u64 {
    let exponent = key >> 23;
    // Up to the exponent's bound every value fits left-aligned: its top bit stands for 2^22.
    let (exponent, significand) =
        if exponent > MAX_EXPONENT { (MAX_EXPONENT, SIGNIFICAND) } else { (exponent, key & SIGNIFICAND) };
    let aligned = ((significand | HIDDEN_BIT) as u64) << (FRACTION_BITS - 1);
    // A shift by 63 leaves nothing but the top bit, which is clear below 2^-40 and for 0.
    let shift = MAX_EXPONENT - exponent;
    if shift < 64 { aligned >> shift } else { 0 }
}

/// `x` in multiples of `2^-40`, rounded down; 0 for what is not a positive number.
#[inline(always)]
pub fn of(x: f32) -> u64 {
    of_key(super::key::amount(x))
}

/// `share * sum` for a share in `[0, 1]`, rounded down, and whether anything was lost.
#[inline(always)]
fn product(share: f32, sum: u64) -> (u64, bool) {
    let bits = share.to_bits();
    let (exponent, significand) = match bits >> 23 {
        0 => (1, bits),
        exponent => (exponent, bits & SIGNIFICAND | HIDDEN_BIT),
    };
    let wide = sum as u128 * significand as u128;
    let (high, low) = ((wide >> 64) as u64, wide as u64);
    // 23 and more: a share is at most 1.
    let shift = EXPONENT_BIAS - exponent;
    if shift < 64 {
        (high << (64 - shift) | low >> shift, low << (64 - shift) != 0)
    } else if shift < 128 {
        (high >> (shift - 64), high & !(u64::MAX << (shift - 64)) | low != 0)
    } else {
        (0, high | low != 0)
    }
}

/// `share * sum` for a share in `[0, 1]`, rounded down: integers are at most the product iff they are at most this.
#[inline(always)]
pub fn share_floor(share: f32, sum: u64) -> u64 {
    product(share, sum).0
}

/// `share * sum` for a share in `[0, 1]`, rounded up: integers are below the product iff they are below this.
#[inline(always)]
pub fn share_ceil(share: f32, sum: u64) -> u64 {
    let (floor, inexact) = product(share, sum);
    floor + inexact as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u64 = 1 << FRACTION_BITS;

    #[test]
    fn values_are_rounded_down() {
        assert_eq!([of(0.0), of(1.0), of(0.5), of(3.75)], [0, ONE, ONE / 2, 15 * ONE / 4]);
        for x in [1e-30, 1e-40, 0.99 / ONE as f32, f32::NAN, -1.0, f32::NEG_INFINITY] {
            assert_eq!(of(x), 0, "{x}");
        }
        assert_eq!(of(1.0 / ONE as f32), 1);
        let most = (1u64 << 63) - (1 << 39);
        assert_eq!([of((1 << 23) as f32), of(1e30), of(f32::INFINITY)], [most; 3]);
        // An odd number of steps of floats meets all exponents and low bits.
        for bits in (0..(1f32 * 8388608.0).to_bits()).step_by(99_991) {
            let x = f32::from_bits(bits);
            assert_eq!(of(x), (x as f64 * ONE as f64).floor() as u64, "{x}");
        }
    }

    #[test]
    fn shares_are_exact() {
        let shares = [
            0.0,
            f32::MIN_POSITIVE,
            1e-42,
            2f32.powi(-40),
            2f32.powi(-41),
            0.1,
            0.5,
            0.9,
            0.9f32.next_up(),
            1.0,
        ];
        for share in shares {
            for sum in [0, 1, 2, 3, ONE - 1, ONE, 1000 * ONE + 1, u64::MAX - 1, u64::MAX] {
                let exact = |n: u64| {
                    // n <=> share * sum, with the share as significand * 2^-149.
                    let (exponent, significand) = match share.to_bits() >> 23 {
                        0 => (0, share.to_bits()),
                        e => (e - 1, share.to_bits() & SIGNIFICAND | HIDDEN_BIT),
                    };
                    // 88 bits shifted by 149 - exponent: compare the quotients, then the rest.
                    let product = sum as u128 * significand as u128;
                    let shift = 149 - exponent;
                    let quotient = if shift < 128 { product >> shift } else { 0 };
                    let rest = product != if shift < 128 { quotient << shift } else { 0 };
                    (n as u128).cmp(&quotient).then(if rest {
                        std::cmp::Ordering::Less
                    } else {
                        std::cmp::Ordering::Equal
                    })
                };
                let (floor, ceil) = (share_floor(share, sum), share_ceil(share, sum));
                assert!(exact(floor).is_le() && exact(ceil).is_ge(), "{share} {sum}");
                assert!(floor == ceil || (floor + 1 == ceil && exact(floor).is_lt()), "{share} {sum}");
            }
        }
    }
}
