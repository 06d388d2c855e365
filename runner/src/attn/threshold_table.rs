//! Threshold tables: JSON files of a list per layer, with a number per query head.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use lacuna::ThresholdTable;
use serde::de::{Deserialize, Deserializer};

use crate::model::Config;
use crate::{Error, Result};

/// The largest file that is read: far above a table of any model, and far below the memory of any machine.
const MAX_BYTES: u64 = 16 << 20;

/// A table and the file that it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ThresholdFile {
    path: PathBuf,
    table: ThresholdTable,
}

impl ThresholdFile {
    /// Reads `[[0.9, ...], ...]`: a list per layer, of a number in [0, 1] per query head.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Malformed`] where it is too large, no JSON, or no such table:
    /// it says in which layer and head.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let mut bytes = Vec::new();
        // What the system calls the size may be wrong: of a pipe it knows none.
        std::fs::File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > MAX_BYTES {
            let expected = format_args!("expected a threshold table of at most {} MiB", MAX_BYTES >> 20);
            return Err(Error::malformed(path, expected));
        }
        let table = parse(&bytes).map_err(|reason| Error::malformed(path, reason))?;
        Ok(Self { path: path.to_owned(), table })
    }

    /// The table.
    pub fn table(&self) -> &ThresholdTable {
        &self.table
    }

    /// Refuses a table that was made for a model of other sizes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], which names the file.
    pub fn check(&self, config: &Config) -> Result<()> {
        let (layers, heads) = (config.num_hidden_layers, config.num_attention_heads);
        for (key, expected, got) in [
            ("the number of layers", layers, self.table.num_layers()),
            ("the number of heads", heads, self.table.num_heads()),
        ] {
            if expected != got {
                let (path, key) = (self.path.clone(), key.to_owned());
                let expected = format!("{expected}, as the model has");
                return Err(Error::InvalidConfig { path, key, expected, got: got.to_string() });
            }
        }
        Ok(())
    }
}

/// The path, as it was given.
impl fmt::Display for ThresholdFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// A threshold of a table. Numbers that are none are kept, so that their place can be named.
struct Entry(std::result::Result<f32, String>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = value.as_f64().filter(|x| (0.0..=1.0).contains(x));
        Ok(Self(number.map(|x| x as f32).ok_or_else(|| shorten(&value.to_string()))))
    }
}

fn parse(json: &[u8]) -> std::result::Result<ThresholdTable, String> {
    let layers: Vec<Vec<Entry>> = serde_json::from_slice(json).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => {
            format!("expected a list of a list of numbers per layer: {}", shorten(&e.to_string()))
        }
        _ => format!("invalid JSON: {e}"),
    })?;
    let heads = layers.first().map_or(0, Vec::len);
    if heads == 0 {
        return Err("expected at least one layer of at least one head, got none".into());
    }
    let mut thresholds = Vec::with_capacity(layers.len());
    for (layer, entries) in layers.into_iter().enumerate() {
        if entries.len() != heads {
            return Err(format!(
                "layer {layer}: expected {heads} heads, as in layer 0, got {}",
                entries.len()
            ));
        }
        let entries = entries.into_iter().enumerate().map(|(head, Entry(entry))| {
            entry.map_err(|got| format!("layer {layer}, head {head}: expected a number in [0, 1], got {got}"))
        });
        thresholds.push(entries.collect::<std::result::Result<Vec<f32>, _>>()?);
    }
    ThresholdTable::new(&thresholds).map_err(|e| e.to_string())
}

/// Text for a message, on one line and cut where it gets long.
fn shorten(text: &str) -> String {
    const MAX: usize = 60;
    let text = text.replace(char::is_control, " ");
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::Threshold;
    use proptest::prelude::*;

    #[test]
    fn a_list_per_layer() {
        let table = parse(b" [[0.5, 1], [0, 0.25]] ").unwrap();
        assert_eq!((table.num_layers(), table.num_heads()), (2, 2));
        assert_eq!(table.of_layer(1), Threshold::PerHead(vec![0.0, 0.25]));
    }

    #[test]
    fn every_refusal_says_where() {
        for (json, says) in [
            ("", "invalid JSON: EOF"),
            ("[[0.5]", "invalid JSON"),
            ("[[0.5]] x", "invalid JSON: trailing characters"),
            ("[[.5]]", "invalid JSON"),
            ("[[NaN]]", "invalid JSON"),
            ("0.5", "expected a list of a list of numbers per layer"),
            ("[0.5]", "expected a list of a list of numbers per layer"),
            ("{\"0\": [0.5]}", "expected a list of a list of numbers per layer"),
            ("[]", "at least one layer"),
            ("[[]]", "at least one head"),
            ("[[0.5, 0.5], [0.5]]", "layer 1: expected 2 heads, as in layer 0, got 1"),
            ("[[0.5, 1.5]]", "layer 0, head 1: expected a number in [0, 1], got 1.5"),
            ("[[0.5], [-0.1]]", "layer 1, head 0: expected a number in [0, 1], got -0.1"),
            ("[[\"0.5\"]]", "layer 0, head 0: expected a number in [0, 1], got \"0.5\""),
            ("[[null]]", "got null"),
            ("[[[0.5]]]", "got [0.5]"),
        ] {
            let why = parse(json.as_bytes()).unwrap_err();
            assert!(why.contains(says) && !why.contains('\n'), "{json}: {why}");
        }
    }

    #[test]
    fn large_files_are_not_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let why = ThresholdFile::read(file.path()).unwrap_err().to_string();
        assert!(why.contains("at most 16 MiB"), "{why}");
    }

    proptest! {
        #[test]
        fn reads_every_table(layers in 1usize..5, heads in 1usize..5, seed in prop::collection::vec(0.0f32..=1.0, 16)) {
            let rows: Vec<Vec<f32>> =
                (0..layers).map(|l| (0..heads).map(|h| seed[(4 * l + h) % 16]).collect()).collect();
            let table = parse(serde_json::to_string(&rows).unwrap().as_bytes()).unwrap();
            prop_assert_eq!(table, ThresholdTable::new(&rows).unwrap());
        }

        #[test]
        fn never_panics(
            text in prop_oneof!["[-\\[\\],0-9.eE \"a-z{}:]{0,60}", "(\\[){0,300}[0-9.,\\[\\]]{0,30}", ".*"],
        ) {
            if let Err(why) = parse(text.as_bytes()) {
                prop_assert!(!why.is_empty() && !why.contains('\n'), "{}", why);
            }
        }
    }
}
