//! The sentences of needles and questions.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Words that stand in needles, questions and the introduction, and in no haystack of prose or noise.
#[cfg(test)]
pub const MARKERS: [&str; 8] = ["record", "records", "secret", "number", "numbers", "kept", "uuid", "uuids"];

/// The sentences of the `noise` haystack, repeated over and over; one line holds all five.
pub const NOISE: [&str; 5] = [
    "The wind is low.",
    "The lake is still.",
    "A lamp burns late.",
    "We sit and we wait.",
    "Then the night falls again.",
];

/// What a needle's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ValueKind {
    /// Seven decimal digits.
    #[default]
    Number,
    /// A random (version 4) UUID in its text form, 36 characters.
    Uuid,
}

impl ValueKind {
    /// The word for one value.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Uuid => "uuid",
        }
    }

    /// The word for several values.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Number => "numbers",
            Self::Uuid => "uuids",
        }
    }

    pub(super) fn draw(self, rng: &mut ChaCha8Rng) -> String {
        match self {
            Self::Number => rng.random_range(1_000_000..10_000_000u32).to_string(),
            Self::Uuid => {
                let bits: u128 = rng.random();
                let version_and_variant = bits & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
                let hex = format!("{version_and_variant:032x}");
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
        }
    }
}

/// What stands before the haystack.
pub fn introduction(kind: ValueKind) -> String {
    format!("The text below hides records of secret {}. Keep them in mind.\n", kind.plural())
}

/// A needle, up to its value. With the space and the value, and [`STOP`], that follow it is the whole needle.
pub fn record(kind: ValueKind, key: &str) -> String {
    format!("Record: the secret {} kept for {key} is:", kind.singular())
}

/// What closes a needle, and with it the answer.
pub const STOP: &str = ".";

/// What stands between the haystack and the answer prefixes.
pub fn query(kind: ValueKind, keys: &[&str]) -> String {
    match keys {
        [key] => format!("\nWhich secret {} is kept for {key}?", kind.singular()),
        [first, second] => format!("\nWhich secret {} are kept for {first} and {second}?", kind.plural()),
        _ => {
            let (last, others) = keys.split_last().expect("a prompt asks for at least one key");
            format!("\nWhich secret {} are kept for {}, and {last}?", kind.plural(), others.join(", "))
        }
    }
}

/// The needle of `key` begun again, on a new line: the model goes on with the value.
pub fn answer_prefix(kind: ValueKind, key: &str) -> String {
    format!("\n{}", record(kind, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn values_have_their_form() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let number = ValueKind::Number.draw(&mut rng);
            assert!(number.len() == 7 && number.bytes().all(|b| b.is_ascii_digit()), "{number}");
            let uuid = ValueKind::Uuid.draw(&mut rng);
            let groups: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{uuid}");
            assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
            assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
            assert!(uuid.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        }
    }

    #[test]
    fn queries_join_their_keys() {
        let ask = |keys: &[&str]| query(ValueKind::Number, keys);
        assert_eq!(ask(&["a-b"]), "\nWhich secret number is kept for a-b?");
        assert_eq!(ask(&["a-b", "c-d"]), "\nWhich secret numbers are kept for a-b and c-d?");
        assert_eq!(ask(&["a-b", "c-d", "e-f"]), "\nWhich secret numbers are kept for a-b, c-d, and e-f?");
    }
}
