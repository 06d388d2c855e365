//! The line that says what became of a sample.

use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::fingerprint::Fingerprint;
use super::records::{Index, Message, Record, Text};
use crate::Error;
use crate::model::peak_memory_bytes;

/// How much of a prompt is written beside its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// All of it, as the programs that read such files expect.
    #[default]
    Full,
    /// A hash, so that a resumed run notices another input.
    Hash,
    /// Nothing.
    None,
}

/// One line of the output, its fields named and ordered as in Star Attention's files; `error` and `meta` are additions.
#[derive(Debug, Serialize)]
pub struct Prediction<'a> {
    index: Index,
    pred: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Message]>,
    outputs: &'a [String],
    others: &'a Map<String, Value>,
    truncation: Value,
    length: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
    meta: Meta<'a>,
}

/// Why a sample has no answer.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Failed {
    /// `too_long`, `invalid_argument`, `not_finite`, `tokenizer` or `attention`.
    pub kind: String,
    /// A sentence.
    pub message: String,
}

impl Failed {
    /// From the error of a sample.
    pub fn new(error: &Error) -> Self {
        let kind = match error {
            Error::TooLong { .. } => "too_long",
            Error::InvalidArgument { .. } => "invalid_argument",
            Error::NotFinite { .. } => "not_finite",
            Error::Tokenizer { .. } => "tokenizer",
            Error::Attention(_) => "attention",
            _ => "other",
        };
        Self { kind: kind.into(), message: error.to_string() }
    }
}

/// Where a line comes from, and what it took.
#[derive(Debug, Serialize)]
pub struct Meta<'a> {
    /// The line of the input, counted from 1.
    pub line: u64,
    /// The attention, as on the command line.
    pub attn: &'a str,
    /// [`Fingerprint`] of the model and the options.
    pub fingerprint: String,
    /// [`Fingerprint`] of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<String>,
    #[serde(flatten)]
    counts: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
}

/// What is the same in every run, on however many ranks.
#[derive(Debug, Serialize)]
struct Counts {
    context_tokens: usize,
    query_tokens: usize,
    kept_tokens: usize,
    output_tokens: usize,
    finish_reason: &'static str,
}

/// What is not.
#[derive(Debug, Serialize)]
struct Cost {
    /// Of ranks each one runs an anchor of its own.
    density: f64,
    prefill_ms: f64,
    search_ms: f64,
    attention_ms: f64,
    decode_ms: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    peak_memory_bytes: Option<u64>,
}

/// The hash of a prompt.
pub(super) fn input_hash(text: &Text) -> Fingerprint {
    let hash = Fingerprint::default();
    match text {
        Text::Split { context, query } => hash.with("context", context).with("query", query),
        Text::Whole(text) => hash.with("input", text),
        Text::Messages(messages) => {
            messages.iter().fold(hash, |hash, Message { role, content }| hash.with(role, content))
        }
    }
}

impl Text {
    /// What it asks, as a hash.
    pub fn hash(&self) -> Fingerprint {
        input_hash(self)
    }
}

impl<'a> Meta<'a> {
    /// Of a sample on `line`, under the attention and the fingerprint of its run.
    pub fn new(line: u64, attn: &'a str, fingerprint: Fingerprint) -> Self {
        Self { line, attn, fingerprint: fingerprint.to_string(), input_hash: None, counts: None, cost: None }
    }
}

impl<'a> Prediction<'a> {
    /// The line of a record that was answered, or not.
    pub fn new(
        record: &'a Record,
        answer: Result<&'a Answer, &Error>,
        echo: Echo,
        mut meta: Meta<'a>,
    ) -> Self {
        let (mut input_context, mut input_query, mut input, mut messages) = (None, None, None, None);
        if echo == Echo::Full {
            match &record.text {
                Text::Split { context, query } => {
                    (input_context, input_query) = (Some(&context[..]), Some(&query[..]))
                }
                Text::Whole(text) => input = Some(&text[..]),
                Text::Messages(list) => messages = Some(&list[..]),
            }
        }
        meta.input_hash = (echo != Echo::None).then(|| record.text.hash().to_string());
        if let Ok(answer) = answer {
            let costs = &answer.costs;
            let ms = |duration: std::time::Duration| round(duration.as_secs_f64() * 1e3, 1e3);
            let rate = |tokens: usize, duration: std::time::Duration| match duration.as_secs_f64() {
                seconds if tokens > 0 && seconds > 0.0 => round(tokens as f64 / seconds, 1e1),
                _ => 0.0,
            };
            meta.counts = Some(Counts {
                context_tokens: costs.context_tokens,
                query_tokens: costs.query_tokens,
                kept_tokens: costs.kept_tokens,
                output_tokens: answer.tokens.len(),
                finish_reason: answer.finish_reason.name(),
            });
            meta.cost = Some(Cost {
                density: costs.density,
                prefill_ms: ms(costs.prefill),
                search_ms: ms(costs.search),
                attention_ms: ms(costs.attention),
                decode_ms: ms(costs.decode),
                prefill_tokens_per_second: rate(costs.context_tokens + costs.query_tokens, costs.prefill),
                decode_tokens_per_second: rate(answer.tokens.len().saturating_sub(1), costs.decode),
                peak_memory_bytes: peak_memory_bytes(),
            });
        }
        let missing = || Value::from(-1);
        Self {
            index: record.index.clone().unwrap_or(Index::Number(-1)),
            pred: answer.map_or("", |answer| &answer.text),
            input_context,
            input_query,
            input,
            messages,
            outputs: &record.outputs,
            others: &record.others,
            truncation: record.truncation.clone().unwrap_or_else(missing),
            length: record.length.clone().unwrap_or_else(missing),
            error: answer.err().map(Failed::new),
            meta,
        }
    }
}

/// Rounds to a multiple of `1 / parts`.
pub(super) fn round(x: f64, parts: f64) -> f64 {
    (x * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &str, echo: Echo) -> Value {
        let (record, _) = Record::parse(record, None).unwrap();
        let error = Error::TooLong { what: "the prompt", tokens: 9, limit_name: "x", limit: 8 };
        let meta = Meta::new(3, "dense", Fingerprint::default());
        serde_json::to_value(Prediction::new(&record, Err(&error), echo, meta)).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_published_programs() {
        let line = line(r#"{"input_context": "c", "input_query": "q", "output": "a"}"#, Echo::Full);
        let keys: Vec<_> = ["index", "truncation", "length"].iter().map(|key| line[key].as_i64()).collect();
        assert_eq!(keys, [Some(-1); 3]);
        assert_eq!((&line["input_context"], &line["input_query"]), (&"c".into(), &"q".into()));
        assert_eq!((&line["outputs"], &line["others"]), (&serde_json::json!(["a"]), &serde_json::json!({})));
        assert_eq!((&line["pred"], &line["error"]["kind"]), (&"".into(), &"too_long".into()));
        assert_eq!(line["error"]["message"], "the prompt takes 9 positions, but x is 8");
        assert_eq!(line["meta"]["line"], 3);
        assert!(line["meta"].get("output_tokens").is_none() && line["meta"].get("cost").is_none());
    }

    #[test]
    fn a_prompt_is_echoed_as_asked() {
        let record = r#"{"prompt": "p", "index": "i"}"#;
        let [full, hash, none] = [Echo::Full, Echo::Hash, Echo::None].map(|echo| line(record, echo));
        assert_eq!((&full["input"], &full["index"]), (&"p".into(), &"i".into()));
        assert!(full.get("input_context").is_none() && hash.get("input").is_none());
        assert_eq!(full["meta"]["input_hash"], hash["meta"]["input_hash"]);
        assert!(hash["meta"]["input_hash"].is_string() && none["meta"].get("input_hash").is_none());
        let chat = line(r#"{"messages": [{"role": "user", "content": "x"}]}"#, Echo::Full);
        assert_eq!(chat["messages"][0]["content"], "x");
    }
}
