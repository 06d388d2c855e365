//! What to say when an attention is not understood.

/// Why an attention was not understood: one sentence that names the valid choices.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseAttnError {
    /// Nothing has this name.
    #[error(
        "there is no pattern or context method '{name}'{}; the patterns are {}; the context methods are {}",
        did_you_mean(.near), .patterns.join(", "), .methods.join(", ")
    )]
    UnknownName {
        /// The name that came.
        name: String,
        /// The closest name there is.
        near: Option<&'static str>,
        /// All patterns.
        patterns: Vec<&'static str>,
        /// All context methods.
        methods: Vec<&'static str>,
    },
    /// Two patterns, or two context methods.
    #[error("{} and {} are both {kind}, of which one can run", .names[0], .names[1])]
    Twice {
        /// `patterns` or `context methods`.
        kind: &'static str,
        /// Their names.
        names: [&'static str; 2],
    },
    /// A pattern before a context method.
    #[error("the context method comes before the pattern: {method}+{pattern}")]
    Order {
        /// The context method's name.
        method: &'static str,
        /// The pattern's name.
        pattern: &'static str,
    },
    /// A context method that has no use for patterns.
    #[error("{method} runs under dense attention alone, not under {pattern}")]
    NotUnder {
        /// The context method's name.
        method: &'static str,
        /// The pattern's name.
        pattern: &'static str,
    },
    /// There is no such key.
    #[error("{name} has no key '{key}'{}; {}", did_you_mean(.near), keys_sentence(.keys))]
    UnknownKey {
        /// The name of the pattern or context method.
        name: &'static str,
        /// The key that came.
        key: String,
        /// The closest key there is.
        near: Option<&'static str>,
        /// All its keys.
        keys: Vec<&'static str>,
    },
    /// A key stands there twice.
    #[error("{name}: {key} is given twice")]
    DuplicateKey {
        /// The name of the pattern or context method.
        name: &'static str,
        /// The key's name.
        key: &'static str,
    },
    /// A key has no value, and is no switch.
    #[error("{name}: {key} needs a value, as in {key}={example}")]
    MissingValue {
        /// The name of the pattern or context method.
        name: &'static str,
        /// The key's name.
        key: &'static str,
        /// Its default.
        example: String,
    },
    /// A value that the key does not accept, or that does not fit the others.
    #[error("{name}: {key} must be {expected}, got {got}")]
    InvalidValue {
        /// The name of the pattern or context method.
        name: &'static str,
        /// The key's name.
        key: &'static str,
        /// The accepted values.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// A file that the key cannot use.
    #[error("{name}: {key}: {reason}")]
    File {
        /// The name of the pattern.
        name: &'static str,
        /// The key's name.
        key: &'static str,
        /// What is wrong with which file, and where.
        reason: String,
    },
    /// Two keys that say the same in different ways.
    #[error("{name}: {} and {} exclude one another", .keys[0], .keys[1])]
    Conflict {
        /// The name of the pattern.
        name: &'static str,
        /// The keys' names.
        keys: [&'static str; 2],
    },
    /// Options that the library refuses.
    #[error("{0}")]
    Options(String),
}

fn did_you_mean(near: &Option<&str>) -> String {
    near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

fn keys_sentence(keys: &[&str]) -> String {
    match keys {
        [] => "it has none".into(),
        keys => format!("its keys are {}", keys.join(", ")),
    }
}

/// The name that one of whose spellings is a few typing errors away from `wanted`. Spellings are normalized.
pub(super) fn nearest<S: Iterator<Item = String>>(
    wanted: &str,
    names: impl Iterator<Item = (&'static str, S)>,
) -> Option<&'static str> {
    names
        .map(|(name, spellings)| {
            let distances = spellings.map(|spelling| edit_distance(wanted, &spelling));
            (distances.min().unwrap_or(usize::MAX), name)
        })
        .filter(|&(distance, name)| distance <= (name.len() / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// Levenshtein: insertions, deletions and substitutions.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_spelling_counts() {
        let names = || {
            [("xattention", &["xattention", "xattn"][..]), ("star", &["star"]), ("starx", &["starx"])]
                .into_iter()
                .map(|(name, spellings)| (name, spellings.iter().map(|&s| s.to_owned())))
        };
        assert_eq!(nearest("xatn", names()), Some("xattention"));
        assert_eq!(nearest("sta", names()), Some("star"));
        assert_eq!(nearest("starxx", names()), Some("starx"));
        assert_eq!(nearest("quadratic", names()), None);
    }
}
