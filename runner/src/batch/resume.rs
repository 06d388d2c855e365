//! Which samples an output has answers for.

use std::collections::HashMap;

use serde_json::Value;

use super::fingerprint::Fingerprint;
use super::input::Keys;
use super::records::Index;

/// What to do about an output that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// It is an error.
    #[default]
    Refuse,
    /// Answers are added for the samples that have none.
    Resume,
    /// It is emptied.
    Overwrite,
}

/// The samples that an output has answers for, failures among them: a line that is taken out of it is made again.
#[derive(Debug)]
pub struct Done {
    keys: Keys,
    fingerprint: String,
    /// What each was asked, where the line says it.
    samples: HashMap<Key, Option<String>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Index(Index),
    Line(u64),
}

impl Key {
    fn new(keys: Keys, index: Option<Index>, line: Option<u64>) -> Result<Self, String> {
        match keys {
            Keys::Index => index.map(Self::Index).ok_or_else(|| "it has no index".into()),
            Keys::Line => {
                line.map(Self::Line).ok_or_else(|| "it does not say which line it is of (meta.line)".into())
            }
        }
    }
}

impl Done {
    /// None yet, of a run with this fingerprint.
    pub fn new(keys: Keys, fingerprint: Fingerprint) -> Self {
        Self { keys, fingerprint: fingerprint.to_string(), samples: HashMap::new() }
    }

    /// Adds a line of the output.
    ///
    /// # Errors
    /// Why it is no line of this run, as a phrase to stand after the name of the file and the number of the line.
    pub fn add(&mut self, line: &Value) -> Result<(), String> {
        let meta = &line["meta"];
        match meta["fingerprint"].as_str() {
            None => return Err("not an answer of this program: it has no meta.fingerprint".into()),
            Some(fingerprint) if fingerprint != self.fingerprint => {
                let attn = meta["attn"].as_str().unwrap_or("unknown");
                return Err(format!(
                    "it was answered by another model or with other options (attention {attn}); overwrite the file, or take \
                     another one"
                ));
            }
            Some(_) => (),
        }
        let number = |value: &Value| value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
        let index = match &line["index"] {
            Value::String(text) => Some(Index::Text(text.clone())),
            value => number(value).map(Index::Number),
        };
        let key = Key::new(self.keys, index, meta["line"].as_u64())?;
        match self.samples.insert(key, meta["input_hash"].as_str().map(str::to_owned)) {
            None => Ok(()),
            Some(_) => Err("its sample has an answer before".into()),
        }
    }

    /// Whether a sample has an answer. `input` is the [`Fingerprint`] of what it asks.
    ///
    /// # Errors
    /// Where the answer is one to something else, as a phrase to stand after the name of the file and the number of the line.
    pub fn contains(&self, index: Option<&Index>, line: u64, input: Fingerprint) -> Result<bool, String> {
        let key = Key::new(self.keys, index.cloned(), Some(line))?;
        match self.samples.get(&key) {
            None => Ok(false),
            Some(Some(asked)) if *asked != input.to_string() => {
                Err("the output has an answer to another prompt in its place".into())
            }
            Some(_) => Ok(true),
        }
    }

    /// Samples that have an answer.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fingerprint(text: &str) -> Fingerprint {
        Fingerprint::default().with("test", text)
    }

    fn line(index: Value, line: u64) -> Value {
        let (run, input) = (fingerprint("run").to_string(), fingerprint("input").to_string());
        json!({"index": index, "pred": "x", "meta": {"line": line, "fingerprint": run, "input_hash": input}})
    }

    #[test]
    fn samples_are_known_again() {
        let run = fingerprint("run");
        let (one, text) = (Index::Number(1), Index::Text("1".into()));
        let mut by_index = Done::new(Keys::Index, run);
        by_index.add(&line(json!(1), 5)).unwrap();
        assert_eq!(by_index.contains(Some(&one), 9, fingerprint("input")), Ok(true));
        assert_eq!(by_index.contains(Some(&text), 5, fingerprint("input")), Ok(false));
        assert!(by_index.contains(Some(&one), 9, fingerprint("other")).is_err());
        assert!(by_index.add(&line(json!(1), 6)).unwrap_err().contains("an answer before"));
        assert!(by_index.add(&line(json!(null), 6)).unwrap_err().contains("no index"));

        let mut by_line = Done::new(Keys::Line, run);
        by_line.add(&line(json!(-1), 5)).unwrap();
        by_line.add(&line(json!(-1), 6)).unwrap();
        assert_eq!(by_line.contains(None, 5, fingerprint("input")), Ok(true));
        assert_eq!(by_line.contains(Some(&one), 7, fingerprint("input")), Ok(false));
        assert_eq!((by_line.len(), by_line.is_empty()), (2, false));
    }

    #[test]
    fn lines_of_other_runs_are_refused() {
        let mut done = Done::new(Keys::Line, fingerprint("another run"));
        assert!(done.add(&line(json!(1), 1)).unwrap_err().contains("another model or with other options"));
        for other in [json!({}), json!(1), json!([]), json!({"index": 1, "pred": "x"}), json!({"meta": 1})] {
            assert!(done.add(&other).unwrap_err().contains("not an answer of this program"));
        }
    }
}
