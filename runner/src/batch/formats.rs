//! The formats of records, told by their keys.

use serde_json::{Map, Value};

use super::records::{Index, Message, Record, Text, kind};

/// How the records of a file spell their prompts and answers. Every format may have `index`, `others`, `truncation` and `length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Star Attention: `input_context`, `input_query`, and `output` or `outputs`.
    Star,
    /// RULER's own: `input`, which `answer_prefix` continues, and `outputs`.
    Ruler,
    /// BABILong: `input`, `question`, `target`.
    Babilong,
    /// InfiniteBench: `context`, `input`, `answer`, `options`.
    InfiniteBench,
    /// `prompt`, and perhaps `output` or `outputs`.
    Prompt,
    /// `messages` of a `role` and a `content` each, and perhaps `output` or `outputs`.
    Messages,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Star, Self::Ruler, Self::Babilong, Self::InfiniteBench, Self::Prompt, Self::Messages];

    /// The name that the command line knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Star => "star",
            Self::Ruler => "ruler",
            Self::Babilong => "babilong",
            Self::InfiniteBench => "infinitebench",
            Self::Prompt => "prompt",
            Self::Messages => "messages",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// The keys without which a record is not of this format.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Star => &["input_context", "input_query"],
            Self::Babilong => &["input", "question", "target"],
            Self::InfiniteBench => &["context", "input", "answer"],
            Self::Ruler => &["input", "outputs"],
            Self::Prompt => &["prompt"],
            Self::Messages => &["messages"],
        }
    }

    /// The format whose keys a record has.
    pub(super) fn of(map: &Map<String, Value>) -> Result<Self, String> {
        let has_all = |format: &Self| format.required().iter().all(|key| map.contains_key(*key));
        let mut found = Self::ALL.into_iter().filter(has_all);
        match (found.next(), found.next()) {
            (Some(format), None) => Ok(format),
            (Some(a), Some(b)) => {
                Err(format!("the keys of a record are those of both {} and {}", a.name(), b.name()))
            }
            (None, _) => {
                const SHOWN: usize = 8;
                let mut keys: Vec<String> = map.keys().take(SHOWN).map(|key| short(key)).collect();
                keys.extend((map.len() > SHOWN).then(|| "...".to_owned()));
                let keys = if keys.is_empty() { "none".into() } else { keys.join(", ") };
                Err(format!("there is no record format with these keys: {keys}"))
            }
        }
    }

    /// The record, taken out of its keys.
    pub(super) fn record(self, map: &mut Map<String, Value>) -> Result<Record, String> {
        let mut fields = Fields { map, format: self };
        let (text, outputs) = match self {
            Self::Star => {
                let context = fields.string("input_context")?;
                (Text::Split { context, query: fields.filled("input_query")? }, fields.outputs(true)?)
            }
            Self::Ruler => {
                let mut text = fields.string("input")?;
                text += &fields.optional_string("answer_prefix")?.unwrap_or_default();
                if text.is_empty() {
                    return Err("input is empty".into());
                }
                (Text::Whole(text), fields.outputs(true)?)
            }
            Self::Babilong => {
                let context = fields.string("input")?;
                let query = format!("\n\n{}", fields.filled("question")?);
                (Text::Split { context, query }, vec![fields.string("target")?])
            }
            Self::InfiniteBench => {
                let context = fields.string("context")?;
                let mut query = format!("\n\n{}", fields.filled("input")?);
                for (option, letter) in fields.strings("options")?.unwrap_or_default().iter().zip('A'..='Z') {
                    query += &format!("\n{letter}. {option}");
                }
                let answers = fields.strings("answer")?;
                (
                    Text::Split { context, query },
                    answers.ok_or("answer must be a string or a list, got null")?,
                )
            }
            Self::Prompt => (Text::Whole(fields.filled("prompt")?), fields.outputs(false)?),
            Self::Messages => (Text::Messages(fields.messages()?), fields.outputs(false)?),
        };
        Ok(Record {
            index: fields.index()?,
            text,
            outputs,
            others: fields.others()?,
            truncation: fields.take("truncation"),
            length: fields.take("length"),
        })
    }
}

/// The keys of a record, to be taken out one by one. `null` counts as absent.
struct Fields<'a> {
    map: &'a mut Map<String, Value>,
    format: Format,
}

impl Fields<'_> {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn optional_string(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{key} must be a string, got {}", kind(&other))),
        }
    }

    fn string(&mut self, key: &str) -> Result<String, String> {
        let format = self.format.name();
        self.optional_string(key)?.ok_or_else(|| format!("a {format} record needs {key}"))
    }

    fn filled(&mut self, key: &str) -> Result<String, String> {
        Some(self.string(key)?).filter(|text| !text.is_empty()).ok_or_else(|| format!("{key} is empty"))
    }

    /// Strings, or numbers as they are written, one or a list.
    fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>, String> {
        let text = |value| match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(format!("{key} must be a string or a list of strings, got {} in it", kind(&other))),
        };
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(list)) => list.into_iter().map(text).collect::<Result<_, _>>().map(Some),
            Some(value @ (Value::String(_) | Value::Number(_))) => Ok(Some(vec![text(value)?])),
            Some(other) => Err(format!("{key} must be a string or a list of strings, got {}", kind(&other))),
        }
    }

    /// `output` or `outputs`.
    fn outputs(&mut self, needed: bool) -> Result<Vec<String>, String> {
        match (self.strings("outputs")?, self.strings("output")?) {
            (Some(_), Some(_)) => Err("output and outputs exclude one another".into()),
            (Some(list), None) | (None, Some(list)) => Ok(list),
            (None, None) if needed => Err(format!("a {} record needs output or outputs", self.format.name())),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn index(&mut self) -> Result<Option<Index>, String> {
        match self.take("index") {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Index::Text(text))),
            Some(value) => {
                let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
                let got = || if value.is_number() { short(&value.to_string()) } else { kind(&value).into() };
                let number = number.ok_or_else(|| {
                    format!("index must be a string or an integer of 64 bits, got {}", got())
                })?;
                Ok(Some(Index::Number(number)))
            }
        }
    }

    fn others(&mut self) -> Result<Map<String, Value>, String> {
        match self.take("others") {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(format!("others must be an object, got {}", kind(&other))),
        }
    }

    fn messages(&mut self) -> Result<Vec<Message>, String> {
        let list = match self.take("messages") {
            Some(Value::Array(list)) => list,
            Some(other) => return Err(format!("messages must be a list, got {}", kind(&other))),
            None => return Err("a messages record needs messages".into()),
        };
        if list.is_empty() {
            return Err("messages is empty".into());
        }
        let message = |(i, value)| {
            let Value::Object(mut map) = value else {
                return Err(format!("messages: message {i} must be an object, got {}", kind(&value)));
            };
            let mut text = |key: &str| match map.remove(key) {
                Some(Value::String(text)) => Ok(text),
                Some(other) => {
                    Err(format!("messages: {key} of message {i} must be a string, got {}", kind(&other)))
                }
                None => Err(format!("messages: message {i} has no {key}")),
            };
            Ok(Message { role: text("role")?, content: text("content")? })
        };
        list.into_iter().enumerate().map(message).collect()
    }
}

/// A text for a message: on one line, cut where it gets long.
fn short(text: &str) -> String {
    const MAX: usize = 30;
    let cut: String = text.chars().take(MAX).flat_map(char::escape_default).collect();
    if text.chars().count() > MAX { cut + "..." } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Record, Format) {
        Record::parse(line, None).unwrap()
    }

    fn split(context: &str, query: &str) -> Text {
        Text::Split { context: context.into(), query: query.into() }
    }

    #[test]
    fn every_format_is_told_by_its_keys() {
        let (record, format) = parse(
            r#"{"index": 3, "input_context": "c", "input_query": "q", "output": "a", "length": 7, "others": {"k": 1}}"#,
        );
        assert_eq!((format, &record.text), (Format::Star, &split("c", "q")));
        assert_eq!((record.index, &record.outputs[..]), (Some(Index::Number(3)), &["a".to_owned()][..]));
        assert_eq!((record.length, record.truncation), (Some(7.into()), None));
        assert_eq!(record.others["k"], 1);

        let (record, format) =
            parse(r#"{"index": "x", "input": "text", "answer_prefix": " So:", "outputs": ["1", "2"]}"#);
        assert_eq!((format, record.text), (Format::Ruler, Text::Whole("text So:".into())));
        assert_eq!((record.index, record.outputs.len()), (Some(Index::Text("x".into())), 2));

        let (record, format) =
            parse(r#"{"input": "Mary went home.", "question": "Where is Mary?", "target": "home"}"#);
        assert_eq!((format, record.text), (Format::Babilong, split("Mary went home.", "\n\nWhere is Mary?")));
        assert_eq!((record.index, record.outputs), (None, vec!["home".to_owned()]));

        let (record, format) =
            parse(r#"{"context": "c", "input": "Which?", "answer": ["b", 7], "options": ["a", "b"]}"#);
        assert_eq!((format, record.text), (Format::InfiniteBench, split("c", "\n\nWhich?\nA. a\nB. b")));
        assert_eq!(record.outputs, ["b", "7"]);
        assert_eq!(parse(r#"{"context": "c", "input": "i", "answer": 7, "options": null}"#).0.outputs, ["7"]);

        let (record, format) = parse(r#"{"prompt": "p"}"#);
        assert_eq!((format, record.text), (Format::Prompt, Text::Whole("p".into())));

        let (record, format) = parse(r#"{"messages": [{"role": "user", "content": "hi"}]}"#);
        let message = Message { role: "user".into(), content: "hi".into() };
        assert_eq!((format, record.text), (Format::Messages, Text::Messages(vec![message])));
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said() {
        for (line, says) in [
            (r#"{"input_context": "c", "input_query": "q"}"#, "a star record needs output or outputs"),
            (r#"{"input_context": "c", "input_query": "", "output": ""}"#, "input_query is empty"),
            (
                r#"{"input_context": 1, "input_query": "q", "output": "a"}"#,
                "input_context must be a string, got a number",
            ),
            (
                r#"{"input_context": "c", "input_query": "q", "output": "a", "outputs": []}"#,
                "exclude one another",
            ),
            (
                r#"{"input_context": "c", "input_query": "q", "outputs": [["a"]]}"#,
                "outputs must be a string or a list",
            ),
            (r#"{"prompt": "p", "index": 1.5}"#, "index must be a string or an integer of 64 bits, got 1.5"),
            (
                r#"{"prompt": "p", "index": 18446744073709551616}"#,
                "index must be a string or an integer of 64 bits",
            ),
            (r#"{"prompt": "p", "index": [1]}"#, "got a list"),
            (r#"{"prompt": "p", "others": 1}"#, "others must be an object, got a number"),
            (r#"{"prompt": "p", "messages": []}"#, "those of both prompt and messages"),
            (r#"{"messages": []}"#, "messages is empty"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 0 has no content"),
            (r#"{"a\nb": 1}"#, r"with these keys: a\nb"),
        ] {
            let reason = Record::parse(line, None).unwrap_err();
            assert!(reason.contains(says), "{line}: {reason}");
        }
        let reason = Record::parse(r#"{"prompt": "p"}"#, Some(Format::Star)).unwrap_err();
        assert_eq!(reason, "a star record needs input_context");
    }

    #[test]
    fn integers_of_64_bits_are_told_apart() {
        for n in [i128::from(i64::MIN), -1, 0, i128::from(u64::MAX)] {
            let (record, _) = parse(&format!(r#"{{"prompt": "p", "index": {n}}}"#));
            assert_eq!(record.index, Some(Index::Number(n)));
        }
    }

    #[test]
    fn names_are_read_back() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(&format.name().to_uppercase()), Some(format));
        }
        assert_eq!(Format::from_name("csv"), None);
    }
}
