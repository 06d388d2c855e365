//! What `--attn` asks for, understood.

use std::fmt;

use lacuna::{Pattern, ThresholdTable};

use super::entry::Entry;
use super::{PatternOptions, ThresholdFile};
use crate::context::{self, Method};
use crate::model::Config;
use crate::{Result, attn::PATTERNS};

/// An entry of a registry with its options.
#[derive(Clone)]
pub struct Setting<T: 'static> {
    pub(super) entry: &'static Entry<T>,
    pub(super) value: T,
}

/// What attention is to do: a context method, a pattern, or both. Made by [`str::parse`].
#[derive(Clone)]
pub struct Attn {
    /// `None` for [`Method::Full`], which has no name.
    pub(super) method: Option<Setting<Method>>,
    pub(super) pattern: Setting<PatternOptions>,
}

impl<T> Setting<T> {
    /// The entry's name.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// What the keys have set.
    pub fn value(&self) -> &T {
        &self.value
    }
}

impl<T: Clone> fmt::Display for Setting<T> {
    /// The name and every key that differs from its default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry.name)?;
        let default = (self.entry.default)();
        for key in self.entry.keys {
            match key.get(&self.value) {
                Some(value) if Some(&value) != key.get(&default).as_ref() => {
                    write!(f, ",{}={value}", key.name)?
                }
                _ => (),
            }
        }
        Ok(())
    }
}

impl Attn {
    /// Every key of the whole prompt.
    pub fn dense() -> Self {
        Self::from(PATTERNS[0].setting())
    }

    /// The names in the registries, without their keys: `star`, `flexprefill`, `star+flexprefill`.
    pub fn name(&self) -> String {
        match &self.method {
            Some(method) if self.pattern.value.pattern == Pattern::Dense => method.name().to_owned(),
            Some(method) => format!("{}+{}", method.name(), self.pattern.name()),
            None => self.pattern.name().to_owned(),
        }
    }

    /// How the prompt is cut and what is kept of it.
    pub fn method(&self) -> &Method {
        self.method.as_ref().map_or(&Method::Full, Setting::value)
    }

    /// What each attention call reads.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern.value.pattern
    }

    /// The thresholds that take the place of the pattern's own, layer by layer.
    pub fn thresholds(&self) -> Option<&ThresholdTable> {
        self.pattern.value.thresholds.as_ref().map(ThresholdFile::table)
    }

    /// As [`context::prefill`] takes it.
    pub fn options(&self, max_new_tokens: usize) -> context::Options {
        context::Options {
            method: self.method().clone(),
            pattern: self.pattern().clone(),
            thresholds: self.thresholds().cloned(),
            max_new_tokens,
        }
    }

    /// Refuses a table of thresholds that was made for another model.
    ///
    /// # Errors
    /// As [`ThresholdFile::check`].
    pub fn check(&self, config: &Config) -> Result<()> {
        self.pattern.value.thresholds.as_ref().map_or(Ok(()), |thresholds| thresholds.check(config))
    }
}

/// The pattern over the whole prompt.
impl From<Setting<PatternOptions>> for Attn {
    fn from(pattern: Setting<PatternOptions>) -> Self {
        Self { method: None, pattern }
    }
}

/// The context method under dense attention.
impl From<Setting<Method>> for Attn {
    fn from(method: Setting<Method>) -> Self {
        Self { method: Some(method), pattern: PATTERNS[0].setting() }
    }
}

impl PartialEq for Attn {
    fn eq(&self, other: &Self) -> bool {
        self.method() == other.method() && self.pattern.value == other.pattern.value
    }
}

impl fmt::Debug for Attn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attn").field(self.method()).field(self.pattern()).finish()
    }
}

/// As [`str::parse`] reads it: names, and the keys that differ from their defaults.
impl fmt::Display for Attn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) if self.pattern.value.pattern == Pattern::Dense => method.fmt(f),
            Some(method) => write!(f, "{method}+{}", self.pattern),
            None => self.pattern.fmt(f),
        }
    }
}
