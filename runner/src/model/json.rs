//! Reading the keys of a JSON configuration file, with errors that name file and key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// An object of a configuration file. A key whose value is `null` counts as absent, as in `transformers`.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The keys on the way to this object, with a trailing dot.
    prefix: String,
    map: &'a Map<String, Value>,
}

/// Reads and parses a JSON file whose root is an object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(Error::malformed(path, format_args!("expected a JSON object, got {}", kind(&other))))
        }
        Err(e) => Err(Error::malformed(path, format_args!("invalid JSON: {e}"))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value for a message: as JSON, cut where it gets long.
fn show(value: &Value) -> String {
    const MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), map }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn invalid(&self, key: &str, expected: impl std::fmt::Display, got: impl std::fmt::Display) -> Error {
        Error::InvalidConfig {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    pub fn unsupported(&self, key: &str, supported: impl std::fmt::Display, got: &Value) -> Error {
        Error::Unsupported {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            supported: supported.to_string(),
            got: show(got),
        }
    }

    fn parse<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => parse(value).map(Some).ok_or_else(|| self.invalid(key, expected, show(value))),
        }
    }

    /// A size between 1 and `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.parse(key, &format!("an integer in 1..={max}"), |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n))
        })
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.parse(key, "a boolean", Value::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.parse(key, "a string", Value::as_str)
    }

    /// A finite number that `accept` takes; `expected` describes those.
    pub fn number(&self, key: &str, expected: &str, accept: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.parse(key, expected, |v| v.as_f64().filter(|&x| x.is_finite() && accept(x)))
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let map = self.parse(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { path: self.path, prefix: format!("{}{key}.", self.prefix), map }))
    }

    /// A token id, or a list of them; nothing is the empty list.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = self.parse(key, "a token id or a list of them", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            _ => id(v).map(|n| vec![n]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.invalid(key, "present", "nothing"))
    }
}
