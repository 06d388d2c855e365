//! What a pattern is called and what its keys are.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::path::Path;

use lacuna::{Pattern, ThresholdTable};

use super::{ThresholdFile, format_length, parse_length};
use crate::Result;
use crate::model::Config;

/// A pattern as the registry knows it.
pub struct Method {
    /// The name that reports print.
    pub name: &'static str,
    /// Other names that are understood.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub doc: &'static str,
    /// The keys it takes.
    pub keys: &'static [Key],
    pub(super) default: fn() -> Pattern,
    /// The library's own check of values that must fit together.
    pub(super) check: fn(&Pattern) -> lacuna::Result<()>,
}

/// One `key=value` of a pattern.
pub struct Key {
    /// The name that reports print.
    pub name: &'static str,
    /// Other names that are understood: the library's field, the original program's option.
    pub aliases: &'static [&'static str],
    /// What it means, in one line.
    pub doc: &'static str,
    pub(super) field: Field,
}

/// The place a key writes to, in the pattern it belongs to, and the values it accepts.
pub(super) enum Field {
    Length {
        at: fn(&mut Pattern) -> &mut usize,
        values: Lengths,
    },
    OptionalLength {
        at: fn(&mut Pattern) -> &mut Option<usize>,
    },
    Real {
        at: fn(&mut Pattern) -> &mut f32,
        range: (Bound<f32>, Bound<f32>),
    },
    Switch {
        at: fn(&mut Pattern) -> &mut bool,
    },
    /// All compat switches at once: those of the published code, or none.
    Compat {
        set: fn(&mut Pattern, original: bool),
    },
    /// A file of thresholds for every layer and head.
    Thresholds,
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

/// Accepted lengths.
pub(super) enum Lengths {
    AtLeast(usize),
    OneOf(&'static [usize]),
}

/// One attention configuration: a pattern with its options. Made by [`str::parse`].
#[derive(Clone)]
pub struct Attn {
    pub(super) method: &'static Method,
    pub(super) pattern: Pattern,
    /// Take the place of the pattern's threshold, layer by layer.
    pub(super) thresholds: Option<ThresholdFile>,
}

impl Method {
    /// The pattern with its default options.
    pub fn attn(&'static self) -> Attn {
        Attn { method: self, pattern: (self.default)(), thresholds: None }
    }
}

impl Key {
    /// The accepted values, as they stand after "must be".
    pub fn accepts(&self) -> String {
        match &self.field {
            Field::Length { values: Lengths::AtLeast(least), .. } => format!("at least {least}"),
            Field::Length { values: Lengths::OneOf(list), .. } => {
                format!("one of {}", list.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
            }
            Field::OptionalLength { .. } => "at least 1, or none".into(),
            Field::Real { range, .. } => match range {
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
            Field::Compat { .. } => "fixed or original".into(),
            Field::Thresholds => "a JSON file of layers x heads in [0, 1], or none".into(),
        }
    }

    /// The default, as [`str::parse`] reads it.
    pub fn default(&self, method: &'static Method) -> String {
        self.get(&method.attn()).unwrap_or_else(|| "fixed".into())
    }

    /// The key's value; `None` for a key that only stands for others.
    pub(super) fn get(&self, attn: &Attn) -> Option<String> {
        let mut pattern = attn.pattern.clone();
        Some(match &self.field {
            Field::Length { at, .. } => format_length(*at(&mut pattern)),
            Field::OptionalLength { at } => at(&mut pattern).map_or("none".into(), format_length),
            Field::Real { at, .. } => at(&mut pattern).to_string(),
            Field::Switch { at } => at(&mut pattern).to_string(),
            Field::Compat { .. } => return None,
            Field::Thresholds => attn.thresholds.as_ref().map_or("none".into(), ThresholdFile::to_string),
        })
    }

    /// Writes the key's value, or says why not.
    pub(super) fn set(&self, attn: &mut Attn, value: &str) -> Result<(), Refusal> {
        let refused = || Refusal::from(self.accepts());
        let pattern = &mut attn.pattern;
        match &self.field {
            Field::Length { at, values } => {
                let length = parse_length(value)?;
                let accepted = match values {
                    Lengths::AtLeast(least) => length >= *least,
                    Lengths::OneOf(list) => list.contains(&length),
                };
                *at(pattern) = if accepted { length } else { return Err(refused()) };
            }
            Field::OptionalLength { at } => {
                *at(pattern) = match value {
                    _ if value.eq_ignore_ascii_case("none") => None,
                    _ => Some(parse_length(value)?).filter(|&n| n > 0).ok_or_else(refused).map(Some)?,
                };
            }
            Field::Real { at, range } => {
                let real = value.parse::<f32>().ok().filter(|x| x.is_finite() && range.contains(x));
                *at(pattern) = real.ok_or_else(refused)?;
            }
            Field::Switch { at } => {
                *at(pattern) = match value.to_ascii_lowercase().as_str() {
                    "true" | "on" | "yes" | "1" => true,
                    "false" | "off" | "no" | "0" => false,
                    _ => return Err(refused()),
                };
            }
            Field::Compat { set } => match value.to_ascii_lowercase().as_str() {
                "fixed" => set(pattern, false),
                "original" => set(pattern, true),
                _ => return Err(refused()),
            },
            Field::Thresholds => {
                attn.thresholds = match value {
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

fn number(bound: &Bound<f32>) -> String {
    match bound {
        Bound::Included(x) | Bound::Excluded(x) => x.to_string(),
        Bound::Unbounded => "inf".into(),
    }
}

impl Attn {
    /// The pattern's name in the registry.
    pub fn name(&self) -> &'static str {
        self.method.name
    }

    /// What the library runs.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The thresholds that take the place of the pattern's own, layer by layer.
    pub fn thresholds(&self) -> Option<&ThresholdTable> {
        self.thresholds.as_ref().map(ThresholdFile::table)
    }

    /// Refuses a table of thresholds that was made for another model.
    ///
    /// # Errors
    /// As [`ThresholdFile::check`].
    pub fn check(&self, config: &Config) -> Result<()> {
        self.thresholds.as_ref().map_or(Ok(()), |thresholds| thresholds.check(config))
    }
}

impl PartialEq for Attn {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.thresholds == other.thresholds
    }
}

impl fmt::Debug for Attn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)
    }
}

/// The name and every key that differs from its default; [`str::parse`] reads it back.
impl fmt::Display for Attn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.name)?;
        let default = self.method.attn();
        for key in self.method.keys {
            match key.get(self) {
                Some(value) if Some(&value) != key.get(&default).as_ref() => {
                    write!(f, ",{}={value}", key.name)?
                }
                _ => (),
            }
        }
        Ok(())
    }
}
