//! Prompts: a haystack with needles in it, and questions after it.
//!
//! ```text
//! The text below hides records of secret numbers. Keep them in mind.        introduction
//! ... Record: the secret number kept for brave-otter is: 1234567. ...       haystack with needles
//! Which secret numbers are kept for brave-otter and quiet-miller?           query
//! Record: the secret number kept for brave-otter is:                        answer prefix, question 0
//! Record: the secret number kept for quiet-miller is:                       answer prefix, question 1
//! ```
//!
//! With one question this is an ordinary prompt: the model goes on with the answer. With several, one prefill serves
//! all: the logits at each prefix's last token ([`Question::position`]) tell the first token of its answer, and a
//! cache rolled back to that token decodes the rest. The prefixes do not disturb each other: a position sees only
//! what stands before it, and an earlier prefix, whose key differs, leads nowhere but to the newline after it.

use std::ops::Range;

use rand::RngExt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tokenizers::{Encoding, Tokenizer};

use super::ambiguity::{self, Ambiguity};
use super::haystack::{Haystack, Keys, Pieces};
use super::wording::{STOP, ValueKind, answer_prefix, introduction, query, record};
use crate::{Error, Result};

/// How many prompts to draw before giving up on an unambiguous one.
const ATTEMPTS: u64 = 16;

/// What prompt to make. The same options and tokenizer give the same prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptOptions {
    /// What hides the needles. Default [`Haystack::Prose`].
    pub haystack: Haystack,
    /// What the values are. Default [`ValueKind::Number`].
    pub value: ValueKind,
    /// Length of the prompt: at most this many tokens, and less by no more than one sentence of the haystack. Default
    /// 4096.
    pub num_tokens: usize,
    /// Needles hidden. Default 1.
    pub num_needles: usize,
    /// Questions asked, about different needles in random order. Default 1.
    pub num_questions: usize,
    /// Where the needles go, in percent of the haystack's sentences, one for each. Default: anywhere.
    pub depths: Option<Vec<f64>>,
    /// Default 0.
    pub seed: u64,
    /// Redraw until the constructed model has exactly one way to answer ([`Prompt::ambiguity`]). Only meaningful with
    /// its tokenizer. Default true.
    pub circuit_safe: bool,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self {
            haystack: Haystack::default(),
            value: ValueKind::default(),
            num_tokens: 4096,
            num_needles: 1,
            num_questions: 1,
            depths: None,
            seed: 0,
            circuit_safe: true,
        }
    }
}

/// A prompt, with its needles and questions in terms of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its tokens, special ones included.
    pub tokens: Vec<u32>,
    /// Where the context ends and the query begins, in tokens.
    pub query_start: usize,
    /// The hidden needles, in the order of the text. (Those that a [`Haystack::Needles`] is made of are not among
    /// them.)
    pub needles: Vec<Needle>,
    /// The questions, in the order of the text.
    pub questions: Vec<Question>,
}

/// `Record: the secret number kept for {key} is: {value}.`
#[derive(Debug, Clone, PartialEq)]
pub struct Needle {
    /// What is asked for.
    pub key: String,
    /// What is to be answered.
    pub value: String,
    /// How much of the haystack stands before it, in percent of sentences.
    pub depth_percent: f64,
    /// The tokens of the sentence.
    pub tokens: Range<usize>,
    /// The tokens of the value.
    pub value_tokens: Range<usize>,
    /// The tokens of the value and the full stop: what the model is to generate before its end token.
    pub answer_tokens: Range<usize>,
}

/// A needle begun again, for the model to complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The needle asked for: an index into [`Prompt::needles`].
    pub needle: usize,
    /// The tokens of the answer prefix.
    pub prefix_tokens: Range<usize>,
    /// The last of them, whose logits tell the answer's first token.
    pub position: usize,
}

impl Prompt {
    /// The tokens that answer a question.
    pub fn answer_tokens(&self, question: &Question) -> &[u32] {
        &self.tokens[self.needles[question.needle].answer_tokens.clone()]
    }

    /// The value that answers a question.
    pub fn answer(&self, question: &Question) -> &str {
        &self.needles[question.needle].value
    }

    /// The first step of an answer that the constructed model cannot get right, or at which it has a choice: the
    /// seven tokens before it also stand elsewhere, before another token. `None` is the promise of a right answer
    /// under dense attention. Takes the tokens for those of [`tokenizer`](super::tokenizer()).
    pub fn ambiguity(&self) -> Option<Ambiguity> {
        ambiguity::find(self)
    }
}

impl PromptOptions {
    /// Makes the prompt.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there are no needles, no questions or more questions than needles, when a
    /// depth is not between 0 and 100, when the prompt is too short for its needles, too long for distinct keys or
    /// for unambiguous answers, or when the tokenizer merges the end of one answer prefix with the beginning of the
    /// next; [`Error::Tokenizer`] when the tokenizer fails.
    pub fn generate(&self, tokenizer: &Tokenizer) -> Result<Prompt> {
        self.check()?;
        for attempt in 0..ATTEMPTS {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(attempt);
            let prompt = self.draw(tokenizer, &mut rng)?;
            if !self.circuit_safe || prompt.ambiguity().is_none() {
                return Ok(prompt);
            }
        }
        let expected =
            format_args!("short enough for unambiguous answers, which none of {ATTEMPTS} draws had");
        Err(Error::invalid("num_tokens", expected, self.num_tokens))
    }

    fn check(&self) -> Result<()> {
        if self.num_needles == 0 {
            return Err(Error::invalid("num_needles", "at least 1", 0));
        }
        if !(1..=self.num_needles).contains(&self.num_questions) {
            let expected = format_args!("between 1 and num_needles = {}", self.num_needles);
            return Err(Error::invalid("num_questions", expected, self.num_questions));
        }
        if let Some(depths) = &self.depths {
            if depths.len() != self.num_needles {
                let expected = format_args!("one for each of {} needles", self.num_needles);
                return Err(Error::invalid("depths", expected, depths.len()));
            }
            if let Some(depth) = depths.iter().find(|depth| !(0.0..=100.0).contains(*depth)) {
                return Err(Error::invalid("depths", "percentages between 0 and 100", depth));
            }
        }
        Ok(())
    }

    fn draw(&self, tokenizer: &Tokenizer, rng: &mut ChaCha8Rng) -> Result<Prompt> {
        let too_long = || Error::invalid("num_tokens", "short enough for distinct keys", self.num_tokens);
        let mut keys = Keys::new(rng);

        let mut depths = match &self.depths {
            Some(depths) => depths.clone(),
            None => (0..self.num_needles).map(|_| rng.random_range(0.0..100.0)).collect(),
        };
        depths.sort_by(f64::total_cmp);
        let hidden = depths
            .into_iter()
            .map(|depth| Some(Hidden { depth, key: keys.next()?, value: self.value.draw(rng) }))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(too_long)?;
        let mut asked: Vec<usize> = (0..self.num_needles).collect();
        asked.shuffle(rng);
        asked.truncate(self.num_questions);
        let draft = |pieces: &[String]| Draft::new(self, &hidden, &asked, pieces);

        let bare = encode(tokenizer, &draft(&[]).text)?.len();
        let Some(room) = self.num_tokens.checked_sub(bare) else {
            let expected = format_args!("at least {bare}, the length without any haystack");
            return Err(Error::invalid("num_tokens", expected, self.num_tokens));
        };
        let mut source = Pieces::new(self.haystack, self.value, &mut keys, rng);
        let measured = measure(&mut source, room, tokenizer)?.ok_or_else(too_long)?;

        // The sum of the pieces' tokens is the length of the whole, but for tokens across their borders.
        let mut pieces = measured.num_pieces_within(room);
        loop {
            let draft = draft(&measured.pieces[..pieces]);
            let encoding = encode(tokenizer, &draft.text)?;
            if encoding.len() <= self.num_tokens {
                return draft.into_prompt(&encoding);
            }
            let excess = encoding.len() - self.num_tokens;
            pieces -= (excess * pieces / encoding.len()).max(1);
        }
    }
}

/// A needle before its place in the tokens is known.
struct Hidden {
    depth: f64,
    key: String,
    value: String,
}

/// Enough of a haystack to fill a prompt, and how many tokens it takes from its beginning to the end of each piece.
struct Measured {
    pieces: Vec<String>,
    tokens_to_end: Vec<usize>,
}

impl Measured {
    fn num_pieces_within(&self, tokens: usize) -> usize {
        self.tokens_to_end.partition_point(|end| *end <= tokens)
    }
}

/// Draws pieces until they take more than `room` tokens; `None` if they run out before. They are encoded in growing
/// portions, the first one small, to learn how many bytes a token has.
fn measure(source: &mut Pieces<'_>, room: usize, tokenizer: &Tokenizer) -> Result<Option<Measured>> {
    const FIRST_PORTION_BYTES: usize = 4096;
    let mut measured = Measured { pieces: Vec::new(), tokens_to_end: Vec::new() };
    let (mut tokens, mut bytes) = (0, 0);
    while tokens <= room {
        let missing_bytes = match tokens {
            0 => FIRST_PORTION_BYTES,
            _ => (room - tokens + 1) * bytes / tokens + FIRST_PORTION_BYTES / 4,
        };
        let mut portion = String::new();
        let mut ends = Vec::new();
        while portion.len() < missing_bytes {
            let Some(piece) = source.next() else { return Ok(None) };
            portion += &piece;
            ends.push(portion.len());
            measured.pieces.push(piece);
        }
        let encoding = tokenizer.encode(portion.as_str(), false).map_err(encode_error)?;
        for end in ends {
            // A token belongs to the piece in which its text begins, after the space that it may carry.
            let within = encoding.get_offsets().partition_point(|(_, token_end)| *token_end <= end);
            measured.tokens_to_end.push(tokens + within);
        }
        tokens += encoding.len();
        bytes += portion.len();
    }
    Ok(Some(measured))
}

/// A prompt's text, with the places of its parts in bytes.
struct Draft<'a> {
    text: String,
    hidden: &'a [Hidden],
    asked: &'a [usize],
    query_start: usize,
    /// For each needle: the sentence, its value, value and full stop; and how deep it is.
    needles: Vec<([Range<usize>; 3], f64)>,
    prefixes: Vec<Range<usize>>,
}

impl<'a> Draft<'a> {
    fn new(options: &PromptOptions, hidden: &'a [Hidden], asked: &'a [usize], pieces: &[String]) -> Self {
        let kind = options.value;
        let mut text = introduction(kind);
        let mut needles = Vec::new();
        let mut placed = 0;
        for needle in hidden {
            let before = (pieces.len() as f64 * needle.depth / 100.0).round() as usize;
            text.extend(pieces[placed..before].iter().map(String::as_str));
            placed = before;

            let start = text.len();
            text += &record(kind, &needle.key);
            let answer = text.len();
            text += " ";
            text += &needle.value;
            let value = answer + 1..text.len();
            text += STOP;
            let depth = 100.0 * before as f64 / pieces.len().max(1) as f64;
            needles.push(([start..text.len(), value, answer..text.len()], depth));
            text += options.haystack.joint();
        }
        text.extend(pieces[placed..].iter().map(String::as_str));
        text.truncate(text.trim_end().len());

        let query_start = text.len();
        let keys: Vec<_> = asked.iter().map(|needle| hidden[*needle].key.as_str()).collect();
        text += &query(kind, &keys);
        let prefixes = keys.iter().map(|key| {
            let start = text.len();
            text += &answer_prefix(kind, key);
            start..text.len()
        });
        let prefixes = prefixes.collect();
        Self { text, hidden, asked, query_start, needles, prefixes }
    }

    fn into_prompt(self, encoding: &Encoding) -> Result<Prompt> {
        let offsets = encoding.get_offsets();
        // Special tokens stand for no text and have empty offsets.
        let span = |bytes: Range<usize>| {
            let first = offsets.iter().position(|(_, end)| *end > bytes.start).unwrap_or(offsets.len());
            let last = offsets.iter().rposition(|(start, end)| start < end && *start < bytes.end);
            first..last.map_or(first, |last| last + 1)
        };
        let needles =
            self.hidden.iter().zip(self.needles).map(|(hidden, ([sentence, value, answer], depth))| Needle {
                key: hidden.key.clone(),
                value: hidden.value.clone(),
                depth_percent: depth,
                tokens: span(sentence),
                value_tokens: span(value),
                answer_tokens: span(answer),
            });
        let questions = self.asked.iter().zip(self.prefixes).map(|(&needle, prefix)| {
            let tokens = span(prefix.clone());
            let position = tokens.end - 1;
            if offsets[position].1 != prefix.end {
                return Err(Error::invalid(
                    "num_questions",
                    "1 with this tokenizer, which merges the colon of an answer prefix with the next line",
                    self.asked.len(),
                ));
            }
            Ok(Question { needle, prefix_tokens: tokens, position })
        });
        Ok(Prompt {
            tokens: encoding.get_ids().to_vec(),
            query_start: span(self.query_start..self.text.len()).start,
            needles: needles.collect(),
            questions: questions.collect::<Result<_>>()?,
            text: self.text,
        })
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Encoding> {
    tokenizer.encode(text, true).map_err(encode_error)
}

fn encode_error(error: tokenizers::Error) -> Error {
    Error::Tokenizer { action: "encode", reason: error.to_string() }
}
