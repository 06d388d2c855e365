//! Numbers of tokens as people write them: `16k` is 16384.

/// The largest number of tokens that can be written: token indices are `u32`.
const MAX: u64 = u32::MAX as u64;

/// Reads a number of tokens. `k` or `K` means 1024, `m` or `M` 1048576.
///
/// # Errors
/// A phrase that says what is accepted, to stand after "must be".
pub fn parse_length(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a whole number, such as 512 or 16k (16384)".into());
    }
    let tokens = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n <= MAX);
    tokens.map(|n| n as usize).ok_or_else(|| format!("at most {MAX}"))
}

/// Writes a number of tokens as [`parse_length`] reads it, in `k` or `m` where that is exact.
pub fn format_length(tokens: usize) -> String {
    match tokens {
        n if n > 0 && n.is_multiple_of(1 << 20) => format!("{}m", n >> 20),
        n if n > 0 && n.is_multiple_of(1 << 10) => format!("{}k", n >> 10),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_are_powers_of_two() {
        for (text, tokens) in
            [("0", 0), ("512", 512), ("16k", 16384), ("2K", 2048), ("1m", 1 << 20), ("3M", 3 << 20)]
        {
            assert_eq!(parse_length(text), Ok(tokens), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_length() {
        for text in ["", "k", "-1", "+1", "1.5k", "1kk", "12 ", "0x10", "1e3", "٣", "é"] {
            assert!(parse_length(text).unwrap_err().contains("whole number"), "{text}");
        }
        for text in ["4294967296", "4096m", "99999999999999999999999", "18014398509481984k"] {
            assert!(parse_length(text).unwrap_err().contains("at most 4294967295"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(tokens in prop_oneof![0usize..5000, 0..=MAX as usize]) {
            prop_assert_eq!(parse_length(&format_length(tokens)), Ok(tokens));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = parse_length(&text);
        }
    }
}
