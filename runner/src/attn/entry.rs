//! What a registry knows of a pattern or of a context method: its name, and its keys with what they accept.

use std::ops::{Bound, RangeBounds};
use std::path::Path;

use super::{Setting, ThresholdFile, format_length, parse_length};
use crate::Result;

/// A pattern or a context method, as its registry knows it. `T` is what its keys set.
pub struct Entry<T: 'static> {
    /// The name that reports print.
    pub name: &'static str,
    /// Other names that are understood.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub doc: &'static str,
    /// The keys it takes.
    pub keys: &'static [Key<T>],
    pub(super) default: fn() -> T,
    /// The library's own check of values that must fit together.
    pub(super) check: fn(&T) -> Result<()>,
}

/// One `key=value` of an entry.
pub struct Key<T: 'static> {
    /// The name that reports print.
    pub name: &'static str,
    /// Other names that are understood: the library's field, the original program's option.
    pub aliases: &'static [&'static str],
    /// What it means, in one line.
    pub doc: &'static str,
    pub(super) field: Field<T>,
}

/// The place a key writes to, and the values it accepts.
pub(super) enum Field<T: 'static> {
    Length {
        at: fn(&mut T) -> &mut usize,
        values: Lengths,
    },
    OptionalLength {
        at: fn(&mut T) -> &mut Option<usize>,
        /// How no length is written.
        absent: &'static str,
    },
    Real {
        at: fn(&mut T) -> &mut f32,
        range: (Bound<f32>, Bound<f32>),
    },
    Switch {
        at: fn(&mut T) -> &mut bool,
    },
    Seed {
        at: fn(&mut T) -> &mut u64,
    },
    /// One of several names.
    Choice {
        choices: &'static [Choice],
        get: fn(&mut T) -> &'static str,
        set: fn(&mut T, &str),
    },
    /// Several other keys at once: as in the published code, or not.
    Compat {
        set: fn(&mut T, original: bool),
    },
    /// A file of thresholds for every layer and head.
    Thresholds {
        at: fn(&mut T) -> &mut Option<ThresholdFile>,
    },
}

/// A name that a key accepts.
pub(super) struct Choice {
    pub name: &'static str,
    /// What it means, where the name does not say it; else empty.
    pub doc: &'static str,
}

/// Accepted lengths.
pub(super) enum Lengths {
    AtLeast(usize),
    OneOf(&'static [usize]),
}

/// Why a key did not take a value.
pub(super) enum Refusal {
    /// The values that it accepts, as they stand after "must be".
    Expected(String),
    /// What is wrong with the file that the value names.
    File(String),
}

impl From<String> for Refusal {
    fn from(expected: String) -> Self {
        Self::Expected(expected)
    }
}

impl<T> Entry<T> {
    /// The entry with its default options.
    pub fn setting(&'static self) -> Setting<T> {
        Setting { entry: self, value: (self.default)() }
    }
}

impl<T: Clone> Key<T> {
    /// The accepted values, as they stand after "must be".
    pub fn accepts(&self) -> String {
        match &self.field {
            Field::Length { values: Lengths::AtLeast(least), .. } => format!("at least {least}"),
            Field::Length { values: Lengths::OneOf(list), .. } => {
                format!("one of {}", list.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
            }
            Field::OptionalLength { absent, .. } => format!("at least 1, or {absent}"),
            Field::Real { range, .. } => match range {
                (Bound::Unbounded, Bound::Unbounded) => "a finite number".into(),
                (Bound::Excluded(low), Bound::Unbounded) => format!("above {low}"),
                (low, high) => format!(
                    "in {}{}, {}{}",
                    if matches!(low, Bound::Included(_)) { '[' } else { '(' },
                    number(low),
                    number(high),
                    if matches!(high, Bound::Included(_)) { ']' } else { ')' },
                ),
            },
            Field::Switch { .. } => "true or false".into(),
            Field::Seed { .. } => format!("a whole number up to {}", u64::MAX),
            Field::Choice { choices, .. } => match choices.iter().map(|c| c.name).collect::<Vec<_>>()[..] {
                [one, two] => format!("{one} or {two}"),
                ref names => format!("one of {}", names.join(", ")),
            },
            Field::Compat { .. } => "fixed or original".into(),
            Field::Thresholds { .. } => "a JSON file of layers x heads in [0, 1], or none".into(),
        }
    }

    /// The default, as it is written.
    pub fn default(&self, entry: &Entry<T>) -> String {
        self.get(&(entry.default)()).unwrap_or_else(|| "fixed".into())
    }

    /// The key's value; `None` for a key that only stands for others.
    pub(super) fn get(&self, value: &T) -> Option<String> {
        let mut value = value.clone();
        Some(match &self.field {
            Field::Length { at, .. } => format_length(*at(&mut value)),
            Field::OptionalLength { at, absent } => {
                at(&mut value).map_or_else(|| (*absent).to_owned(), format_length)
            }
            Field::Real { at, .. } => at(&mut value).to_string(),
            Field::Switch { at } => at(&mut value).to_string(),
            Field::Seed { at } => at(&mut value).to_string(),
            Field::Choice { get, .. } => get(&mut value).to_owned(),
            Field::Compat { .. } => return None,
            Field::Thresholds { at } => {
                at(&mut value).as_ref().map_or("none".into(), ThresholdFile::to_string)
            }
        })
    }

    /// Writes the key's value, or says why not.
    pub(super) fn set(&self, to: &mut T, value: &str) -> Result<(), Refusal> {
        let refused = || Refusal::from(self.accepts());
        match &self.field {
            Field::Length { at, values } => {
                let length = parse_length(value)?;
                let accepted = match values {
                    Lengths::AtLeast(least) => length >= *least,
                    Lengths::OneOf(list) => list.contains(&length),
                };
                *at(to) = if accepted { length } else { return Err(refused()) };
            }
            Field::OptionalLength { at, absent } => {
                *at(to) = match value {
                    _ if value.eq_ignore_ascii_case(absent) => None,
                    _ => Some(parse_length(value)?).filter(|&n| n > 0).ok_or_else(refused).map(Some)?,
                };
            }
            Field::Real { at, range } => {
                let real = value.parse::<f32>().ok().filter(|x| x.is_finite() && range.contains(x));
                *at(to) = real.ok_or_else(refused)?;
            }
            Field::Switch { at } => {
                *at(to) = match value.to_ascii_lowercase().as_str() {
                    "true" | "on" | "yes" | "1" => true,
                    "false" | "off" | "no" | "0" => false,
                    _ => return Err(refused()),
                };
            }
            Field::Seed { at } => *at(to) = value.parse().map_err(|_| refused())?,
            Field::Choice { choices, set, .. } => {
                let choice = choices.iter().find(|choice| normalize(choice.name) == normalize(value));
                set(to, choice.ok_or_else(refused)?.name);
            }
            Field::Compat { set } => match value.to_ascii_lowercase().as_str() {
                "fixed" => set(to, false),
                "original" => set(to, true),
                _ => return Err(refused()),
            },
            Field::Thresholds { at } => {
                *at(to) = match value {
                    _ if value.eq_ignore_ascii_case("none") => None,
                    path => {
                        Some(ThresholdFile::read(Path::new(path)).map_err(|e| Refusal::File(e.to_string()))?)
                    }
                };
            }
        }
        Ok(())
    }
}

/// A name as names are compared.
pub(super) fn normalize(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn number(bound: &Bound<f32>) -> String {
    match bound {
        Bound::Included(x) | Bound::Excluded(x) => x.to_string(),
        Bound::Unbounded => "inf".into(),
    }
}
