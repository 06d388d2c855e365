//! A record: one prompt of a file, and what is known about its answer.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::formats::Format;

/// One prompt, with what its file says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What its file calls it.
    pub index: Option<Index>,
    /// The prompt.
    pub text: Text,
    /// Right answers, each of them; empty where none is given.
    pub outputs: Vec<String>,
    /// Passed through.
    pub others: Map<String, Value>,
    /// Passed through.
    pub truncation: Option<Value>,
    /// Passed through.
    pub length: Option<Value>,
}

/// The name of a record. `1` and `"1"` are different.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Index {
    /// An integer.
    Number(i128),
    /// A text.
    Text(String),
}

/// As in JSON.
impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// The text of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// A long text, and what is asked about it; together they are the prompt.
    Split {
        /// The long text.
        context: String,
        /// What comes after it; not empty.
        query: String,
    },
    /// A prompt that does not say where its query begins; not empty.
    Whole(String),
    /// A conversation; at least one message.
    Messages(Vec<Message>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Record {
    /// Reads a line. Without a format, the record's keys decide on one.
    ///
    /// # Errors
    /// What is wrong, as a phrase to stand after the name of the file and the number of the line.
    pub fn parse(line: &str, format: Option<Format>) -> Result<(Self, Format), String> {
        let value = serde_json::from_str(line).map_err(|e| no_json(line, &e))?;
        let Value::Object(mut map) = value else {
            return Err(format!("a record must be a JSON object, got {}", kind(&value)));
        };
        let format = match format {
            Some(format) => format,
            None => Format::of(&map)?,
        };
        Ok((format.record(&mut map)?, format))
    }
}

fn no_json(line: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Its line is always the first; its column says where.
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let hint = match line.trim_start() {
        start if start.starts_with("//") || start.starts_with('#') => "; JSON has no comments",
        start if start.starts_with(['{', '[']) && error.is_eof() => "; a record is one line",
        _ => "",
    };
    format!("not JSON: {reason} in column {}{hint}", error.column())
}

/// What a value is, for a message.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refused(line: &str) -> String {
        Record::parse(line, None).unwrap_err()
    }

    #[test]
    fn what_is_no_record_is_explained() {
        for (line, says) in [
            ("", "not JSON: EOF while parsing a value in column 0"),
            ("{", "a record is one line"),
            (
                r#"{"input_context": "a", "input_query": "b", "output": "c",}"#,
                "not JSON: trailing comma in column",
            ),
            ("// a comment", "JSON has no comments"),
            (r#"{"index": 1 /* so */}"#, "not JSON: "),
            (r#"{"index": NaN}"#, "not JSON: "),
            (r#"{"index": 1e999}"#, "not JSON: number out of range"),
            ("[1]", "a record must be a JSON object, got a list"),
            ("null", "got null"),
            ("{}", "there is no record format with these keys: none"),
        ] {
            assert!(refused(line).contains(says), "{line}: {}", refused(line));
        }
        assert!(refused(&"[".repeat(100_000)).contains("recursion limit exceeded"));
        assert!(refused(&format!("{{\"a\":{}", "{\"a\":".repeat(100_000))).contains("recursion limit"));
    }

    /// JSON that is nearly a record.
    fn nearly() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec![
            "index",
            "input_context",
            "input_query",
            "output",
            "outputs",
            "input",
            "answer_prefix",
            "question",
            "target",
            "context",
            "answer",
            "options",
            "prompt",
            "messages",
            "others",
            "truncation",
            "length",
            "x",
        ]);
        let leaf = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            any::<i64>().prop_map(|n| json!(n)),
            any::<u64>().prop_map(|n| json!(n)),
            any::<f64>().prop_map(|x| json!(x)),
            ".{0,8}".prop_map(|s| json!(s)),
            Just(json!("")),
            Just(json!([])),
            Just(json!(["a", "b"])),
            Just(json!(["a", 1])),
            Just(json!({})),
            Just(json!([{"role": "user", "content": "x"}])),
            Just(json!([{"role": "user"}])),
        ];
        prop::collection::vec((key, leaf), 0..8).prop_map(|pairs| {
            Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()).to_string()
        })
    }

    fn check(line: &str, format: Option<Format>) -> Result<(), TestCaseError> {
        match Record::parse(line, format) {
            Ok((record, found)) => {
                prop_assert!(format.is_none_or(|format| format == found));
                let empty = match &record.text {
                    Text::Split { query, .. } => query.is_empty(),
                    Text::Whole(text) => text.is_empty(),
                    Text::Messages(messages) => messages.is_empty(),
                };
                prop_assert!(!empty, "{line}");
            }
            Err(reason) => {
                prop_assert!(!reason.is_empty() && !reason.contains('\n') && reason.len() < 400, "{reason}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_text_gives_a_record_or_a_reason(line in "\\PC*") {
            check(&line, None)?;
        }

        #[test]
        fn any_object_gives_a_record_or_a_reason(line in nearly(), format in prop::sample::select(Format::ALL.to_vec())) {
            check(&line, None)?;
            check(&line, Some(format))?;
        }
    }
}
