//! How closely a result must agree with the device.

use super::Format;

/// What a comparison with a captured result may demand of one instruction form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Class {
    /// The same bits.
    Exact,
    /// Finite results at most this many units in the last place apart; zeros, infinities and NaN as they are.
    Ulp(u32),
    /// Finite results apart by at most the larger of an absolute bound and a bound relative to the captured one.
    Within {
        /// The absolute bound.
        absolute: f32,
        /// The relative bound.
        relative: f32,
    },
    /// Nothing is compared: the bits are the device's private business.
    Opaque,
}

impl Class {
    /// Whether `got` stands for the captured `expected`, both bit patterns of `format`.
    pub fn accepts(self, format: Format, expected: u32, got: u32) -> bool {
        if expected == got || self == Self::Opaque {
            return true;
        }
        let (e, g) = (format.value(expected), format.value(got));
        match self {
            Self::Exact | Self::Opaque => false,
            Self::Ulp(units) => {
                let sign = 1 << (format.bits() - 1);
                let ordered =
                    |bits: u32| if bits & sign != 0 { -((bits & !sign) as i64) } else { bits as i64 };
                e.is_finite()
                    && g.is_finite()
                    && (ordered(expected) - ordered(got)).unsigned_abs() <= units as u64
            }
            Self::Within { absolute, relative } => {
                let bound = (absolute as f64).max(relative as f64 * e.abs());
                e.is_finite() && g.is_finite() && (e - g).abs() <= bound
            }
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Ulp(units) => write!(f, "ulp({units})"),
            Self::Within { absolute, relative } => write!(f, "within({absolute:e} or {relative:e} relative)"),
            Self::Opaque => f.write_str("opaque"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_accepts_what_it_says() {
        let f32s = |class: Class, e: f32, g: f32| class.accepts(Format::F32, e.to_bits(), g.to_bits());
        let next = f32::from_bits(1f32.to_bits() + 1);
        assert!(
            f32s(Class::Exact, 1.0, 1.0) && !f32s(Class::Exact, 1.0, next) && !f32s(Class::Exact, 0.0, -0.0)
        );
        assert!(f32s(Class::Ulp(1), 1.0, next) && !f32s(Class::Ulp(1), 1.0, 1.000001));
        assert!(!f32s(Class::Ulp(9), f32::MAX, f32::INFINITY) && !f32s(Class::Ulp(9), f32::NAN, 1.0));
        assert!(f32s(Class::Ulp(2), 1e-45, -1e-45) && !f32s(Class::Ulp(1), 1e-45, -1e-45));
        let near = Class::Within { absolute: 0.5, relative: 0.25 };
        assert!(
            f32s(near, 1.0, 1.5) && f32s(near, 8.0, 10.0) && !f32s(near, 1.0, 1.6) && !f32s(near, 8.0, 10.1)
        );
        assert!(!f32s(near, 1.0, f32::NAN) && f32s(Class::Opaque, 1.0, f32::NAN));
        assert!(
            Class::Ulp(1).accepts(Format::BF16, 0x3f80, 0x3f81)
                && !Class::Ulp(1).accepts(Format::BF16, 0x3f80, 0x3f82)
        );
    }
}
