//! `NAME[,KEY=VALUE...]` to a pattern, and what to say when that fails.

use std::collections::HashSet;
use std::str::FromStr;

use super::method::{Attn, Field, Key, Method, Refusal};
use super::registry::{METHODS, THRESHOLD, THRESHOLD_TABLE};

/// Why a pattern was not understood: one sentence that names the valid choices.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParseAttnError {
    /// No pattern has this name.
    #[error("there is no pattern '{name}'{}; the patterns are {}", did_you_mean(.near), .names.join(", "))]
    UnknownPattern {
        /// The name that came.
        name: String,
        /// The closest name there is.
        near: Option<&'static str>,
        /// All names.
        names: Vec<&'static str>,
    },
    /// The pattern has no such key.
    #[error("{method} has no key '{key}'{}; {}", did_you_mean(.near), keys_sentence(.keys))]
    UnknownKey {
        /// The pattern's name.
        method: &'static str,
        /// The key that came.
        key: String,
        /// The closest key there is.
        near: Option<&'static str>,
        /// All keys of the pattern.
        keys: Vec<&'static str>,
    },
    /// A key stands there twice.
    #[error("{method}: {key} is given twice")]
    DuplicateKey {
        /// The pattern's name.
        method: &'static str,
        /// The key's name.
        key: &'static str,
    },
    /// A key has no value, and is no switch.
    #[error("{method}: {key} needs a value, as in {key}={example}")]
    MissingValue {
        /// The pattern's name.
        method: &'static str,
        /// The key's name.
        key: &'static str,
        /// Its default.
        example: String,
    },
    /// A value that the key does not accept.
    #[error("{method}: {key} must be {expected}, got {got}")]
    InvalidValue {
        /// The pattern's name.
        method: &'static str,
        /// The key's name.
        key: &'static str,
        /// The accepted values.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// A file that the key cannot use.
    #[error("{method}: {key}: {reason}")]
    File {
        /// The pattern's name.
        method: &'static str,
        /// The key's name.
        key: &'static str,
        /// What is wrong with which file, and where.
        reason: String,
    },
    /// Two keys that say the same in different ways.
    #[error("{method}: {} and {} exclude one another", .keys[0], .keys[1])]
    Conflict {
        /// The pattern's name.
        method: &'static str,
        /// The keys' names.
        keys: [&'static str; 2],
    },
    /// Values that do not fit together.
    #[error(transparent)]
    Options(#[from] lacuna::Error),
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

impl FromStr for Attn {
    type Err = ParseAttnError;

    /// Case does not matter but in names of files, `-` and `_` are the same, and a switch without a value is on. `compat` is
    /// applied before the single compat switches, wherever it stands. A file that a key names is read.
    fn from_str(text: &str) -> Result<Self, ParseAttnError> {
        let mut parts = text.split(',').map(str::trim);
        let mut attn = find_method(parts.next().unwrap_or_default())?.attn();
        let method = attn.method;

        let mut seen = HashSet::new();
        let mut settings = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (part, None),
            };
            let key = find_key(method, name)?;
            if !seen.insert(key.name) {
                return Err(ParseAttnError::DuplicateKey { method: method.name, key: key.name });
            }
            settings.push((key, value));
        }
        settings.sort_by_key(|(key, _)| !matches!(key.field, Field::Compat { .. }));
        for (key, value) in settings {
            let value = match (value, &key.field) {
                (Some(value), _) if !value.is_empty() => value,
                (None, Field::Switch { .. }) => "true",
                _ => {
                    return Err(ParseAttnError::MissingValue {
                        method: method.name,
                        key: key.name,
                        example: key.default(method),
                    });
                }
            };
            key.set(&mut attn, value).map_err(|refusal| match refusal {
                Refusal::Expected(expected) => ParseAttnError::InvalidValue {
                    method: method.name,
                    key: key.name,
                    expected,
                    got: value.into(),
                },
                Refusal::File(reason) => ParseAttnError::File { method: method.name, key: key.name, reason },
            })?;
        }
        if attn.thresholds.is_some() && seen.contains(THRESHOLD) {
            let keys = [THRESHOLD, THRESHOLD_TABLE];
            return Err(ParseAttnError::Conflict { method: method.name, keys });
        }
        (method.check)(&attn.pattern)?;
        Ok(attn)
    }
}

fn find_method(name: &str) -> Result<&'static Method, ParseAttnError> {
    let wanted = normalize(name);
    let is = |have: &str| normalize(have) == wanted;
    METHODS.iter().find(|m| is(m.name) || m.aliases.iter().any(|a| is(a))).ok_or_else(|| {
        ParseAttnError::UnknownPattern {
            name: name.into(),
            near: nearest(&wanted, METHODS.iter().map(|m| (m.name, m.aliases))),
            names: METHODS.iter().map(|m| m.name).collect(),
        }
    })
}

fn find_key(method: &'static Method, name: &str) -> Result<&'static Key, ParseAttnError> {
    let wanted = normalize(name);
    let is = |have: &str| normalize(have) == wanted;
    method.keys.iter().find(|k| is(k.name) || k.aliases.iter().any(|a| is(a))).ok_or_else(|| {
        ParseAttnError::UnknownKey {
            method: method.name,
            key: name.into(),
            near: nearest(&wanted, method.keys.iter().map(|k| (k.name, k.aliases))),
            keys: method.keys.iter().map(|k| k.name).collect(),
        }
    })
}

fn normalize(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// The name that one of whose spellings is a few typing errors away.
fn nearest(
    wanted: &str,
    names: impl Iterator<Item = (&'static str, &'static [&'static str])>,
) -> Option<&'static str> {
    let distance = |have: &str| edit_distance(wanted, &normalize(have));
    names
        .map(|(name, aliases)| {
            (aliases.iter().copied().chain([name]).map(distance).min().unwrap_or(usize::MAX), name)
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
    use lacuna::{FlexPrefillCompat, Pattern, Threshold};

    fn parse(text: &str) -> Pattern {
        text.parse::<Attn>().unwrap_or_else(|e| panic!("{text}: {e}")).pattern().clone()
    }

    fn refused(text: &str) -> String {
        text.parse::<Attn>().unwrap_err().to_string()
    }

    #[test]
    fn names_and_aliases() {
        for method in METHODS {
            let default = (method.default)();
            for name in method.aliases.iter().chain([&method.name]) {
                assert_eq!(parse(name), default);
                assert_eq!(parse(&name.to_uppercase().replace('-', "_")), default);
            }
            // The library's own name for the pattern.
            assert_eq!(parse(default.name()), default);
        }
    }

    #[test]
    fn keys_reach_their_fields() {
        let Pattern::FlexPrefill(o) =
            parse("flexprefill, Gamma=0.95 ,MIN-BUDGET=2k,max_budget=4K,block_size=64,qa_only")
        else {
            panic!()
        };
        assert_eq!(
            (o.gamma, o.min_budget, o.max_budget, o.block_size, o.qa_only),
            (0.95, 2048, Some(4096), 64, true)
        );
        let Pattern::XAttention(o) = parse("xattn,threshold=0.5,stride=16,norm=2,chunk=2k") else { panic!() };
        assert_eq!(
            (o.threshold, o.stride, o.norm, o.chunk_size),
            (Threshold::Scalar(0.5), 16, 2.0, Some(2048))
        );
        let Pattern::VerticalSlash(o) = parse("vertical-slash,vertical=1,slash=2,last_q=3,sink=4,recent=5")
        else {
            panic!()
        };
        assert_eq!((o.vertical_size, o.slash_size, o.last_q, o.sink, o.recent), (1, 2, 3, 4, 5));
        let Pattern::TriShape(o) = parse("tri-shape,init=1,local=2,last=3,block=4") else { panic!() };
        assert_eq!((o.n_init, o.n_local, o.n_last, o.block_size), (1, 2, 3, 4));
        let Pattern::AShape(o) = parse("a-shape,init=1,local=2,block=4") else { panic!() };
        assert_eq!((o.n_init, o.n_local, o.block_size), (1, 2, 4));
        let Pattern::SinkAndLocal(o) = parse("streaming,global=1,local=2,block=4") else { panic!() };
        assert_eq!((o.global_window, o.local_window, o.block_size), (1, 2, 4));
        let Pattern::BlockDiagonal(o) = parse("block-diagonal,chunk=1,block=4") else { panic!() };
        assert_eq!((o.chunk_size, o.block_size), (1, 4));
    }

    #[test]
    fn compat_comes_before_its_switches() {
        for text in
            ["flexprefill,compat=original,slash_cover=off", "flexprefill,slash_cover=off,compat=original"]
        {
            let Pattern::FlexPrefill(o) = parse(text) else { panic!() };
            assert_eq!(o.compat, FlexPrefillCompat { slash_cover: false, ..FlexPrefillCompat::ORIGINAL });
        }
    }

    #[test]
    fn every_refusal_is_one_sentence() {
        for (text, says) in [
            (
                "",
                "there is no pattern ''; the patterns are dense, flexprefill, xattention, vertical-slash, a-shape, \
                  tri-shape, streaming, block-diagonal",
            ),
            ("flexprefil", "there is no pattern 'flexprefil' (did you mean flexprefill?)"),
            ("xatn", "(did you mean xattention?)"),
            ("dense,block=1", "dense has no key 'block'; it has none"),
            (
                "a-shape,initt=1",
                "a-shape has no key 'initt' (did you mean init?); its keys are init, local, block",
            ),
            ("flexprefill,gamma=0.9,gamma=0.9", "flexprefill: gamma is given twice"),
            ("streaming,local=1,local_window=2", "streaming: local is given twice"),
            ("flexprefill,gamma", "flexprefill: gamma needs a value, as in gamma=0.9"),
            ("flexprefill,gamma=", "flexprefill: gamma needs a value"),
            ("flexprefill,", "flexprefill has no key ''"),
            ("flexprefill,gamma=2", "flexprefill: gamma must be in (0, 1], got 2"),
            ("flexprefill,gamma=NaN", "flexprefill: gamma must be in (0, 1], got NaN"),
            ("flexprefill,block=0", "flexprefill: block must be one of 16, 32, 64, 128, 256, got 0"),
            (
                "flexprefill,block=x",
                "flexprefill: block must be a whole number, such as 512 or 16k (16384), got x",
            ),
            ("flexprefill,max_budget=0", "flexprefill: max_budget must be at least 1, or none, got 0"),
            (
                "flexprefill,max_budget=512",
                "flexprefill: max_budget must be at least min_budget (1024), got 512",
            ),
            ("flexprefill,qa_only=maybe", "flexprefill: qa_only must be true or false, got maybe"),
            ("flexprefill,compat=no", "flexprefill: compat must be fixed or original, got no"),
            ("xattention,norm=0", "xattention: norm must be above 0, got 0"),
            ("xattention,norm=inf", "xattention: norm must be above 0, got inf"),
            (
                "xattention,stride=48",
                "xattention: stride must be a positive divisor of block_size (128), got 48",
            ),
            (
                "xattention,chunk_size=100",
                "xattention: chunk_size must be a positive multiple of block_size (128)",
            ),
            ("vertical-slash,last_q=0", "vertical-slash: last_q must be at least 1, got 0"),
            ("block-diagonal,chunk=0", "block-diagonal: chunk must be at least 1, got 0"),
        ] {
            let message = refused(text);
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
