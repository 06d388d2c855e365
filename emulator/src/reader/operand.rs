//! Operands that stand for themselves: numbers.

use super::types::Ty;

/// The bits of a literal for an operand of type `ty`, cut to its width.
pub fn immediate(text: &str, ty: Ty) -> Option<u64> {
    let bits = literal(text, ty)?;
    Some(if ty.bits() == 64 { bits } else { bits & ((1 << ty.bits()) - 1) })
}

fn literal(text: &str, ty: Ty) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return (hex.len() == 8 && ty.bits() == 32).then(|| u64::from_str_radix(hex, 16).ok())?;
    }
    if let Some(hex) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return (hex.len() == 16 && ty.bits() == 64).then(|| u64::from_str_radix(hex, 16).ok())?;
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return (text == "WARP_SZ").then_some(32);
    }
    if ty == Ty::F32 && digits.contains('.') {
        return text.parse::<f32>().ok().map(|value| u64::from(value.to_bits()));
    }
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let radix = |prefix: &[&str], radix| {
        let rest = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix))?;
        u64::from_str_radix(rest, radix).ok()
    };
    let magnitude = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => radix(&["0x", "0X"], 16)?,
        [b'0', b'b' | b'B', ..] => radix(&["0b", "0B"], 2)?,
        [b'0', _, ..] => radix(&["0"], 8)?,
        _ => digits.parse().ok()?,
    };
    if negative && magnitude > 1 << 63 {
        return None;
    }
    Some(if negative { magnitude.wrapping_neg() } else { magnitude })
}

/// The number in a register family: `%r12` is number 12 of `%r`.
pub fn split_number(name: &str) -> Option<(&str, u32)> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[prefix.len()..];
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((prefix, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let cases = [
            ("12", Ty::U(32), Some(12)),
            ("-1", Ty::S(32), Some(0xffff_ffff)),
            ("-1", Ty::B(16), Some(0xffff)),
            ("0xFFU", Ty::U(32), Some(255)),
            ("017", Ty::U(32), Some(15)),
            ("0b101", Ty::U(32), Some(5)),
            ("0f3F800000", Ty::F32, Some(0x3f80_0000)),
            ("0f3F800000", Ty::B(32), Some(0x3f80_0000)),
            ("0f3F8", Ty::F32, None),
            ("0d3FF0000000000000", Ty::F64, Some(0x3ff0_0000_0000_0000)),
            ("1.5", Ty::F32, Some(0x3fc0_0000)),
            ("-0.0", Ty::F32, Some(0x8000_0000)),
            ("18446744073709551615", Ty::U(64), Some(u64::MAX)),
            ("18446744073709551616", Ty::U(64), None),
            ("WARP_SZ", Ty::U(32), Some(32)),
            ("abc", Ty::U(32), None),
            ("", Ty::U(32), None),
            ("-", Ty::U(32), None),
        ];
        for (text, ty, expected) in cases {
            assert_eq!(immediate(text, ty), expected, "{text} as {ty:?}");
        }
    }

    #[test]
    fn numbers_of_register_families() {
        assert_eq!(split_number("%rd10"), Some(("%rd", 10)));
        assert_eq!(split_number("%r0"), Some(("%r", 0)));
        assert_eq!(split_number("%SP"), None);
        assert_eq!(split_number("%r01"), None);
    }
}
