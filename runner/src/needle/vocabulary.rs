//! The 4096 token ids of the constructed model, and which of them answers are made of.
//!
//! | ids | tokens |
//! | --- | --- |
//! | 0..256 | the bytes: whatever has no token of its own falls apart into these |
//! | 256, 257 | `<\|begin\|>`, `<\|end\|>` |
//! | from 258 | groups of digits: `00`..`99`, `000`..`999`, ` 0`..` 9`, ` 00`..` 99`, ` 000`..` 999` |
//! | then | the words of the templates and of the generated texts, and the punctuation of JSON |
//! | then | nothing: rows of the embedding that no text reaches |

use std::collections::HashMap;
use std::sync::LazyLock;

use super::geometry::VOCAB_SIZE;
use super::tokenizer::pre_tokens;
use super::wording::{self, ValueKind};
use super::words;

/// The id of the token that every prompt begins with.
pub const BEGIN: u32 = 256;
/// The id of the token that ends an answer.
pub const END: u32 = 257;
/// How the two special tokens are written.
pub const BEGIN_TEXT: &str = "<|begin|>";
/// See [`BEGIN_TEXT`].
pub const END_TEXT: &str = "<|end|>";

/// The vocabulary: fixed, the same for every model that is built.
pub static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::new);

/// The tokens in the order of their ids.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Vec<Vec<u8>>,
    ids: HashMap<Vec<u8>, u32>,
}

impl Vocabulary {
    fn new() -> Self {
        let mut vocabulary = Self { tokens: Vec::new(), ids: HashMap::new() };
        (0..=255u8).for_each(|byte| vocabulary.add(&[byte]));
        vocabulary.add(BEGIN_TEXT.as_bytes());
        vocabulary.add(END_TEXT.as_bytes());
        (0..100).for_each(|n| vocabulary.add(format!("{n:02}").as_bytes()));
        (0..1000).for_each(|n| vocabulary.add(format!("{n:03}").as_bytes()));
        (0..10).for_each(|n| vocabulary.add(format!(" {n}").as_bytes()));
        (0..100).for_each(|n| vocabulary.add(format!(" {n:02}").as_bytes()));
        (0..1000).for_each(|n| vocabulary.add(format!(" {n:03}").as_bytes()));

        for kind in [ValueKind::Number, ValueKind::Uuid] {
            vocabulary.add_text(&wording::introduction(kind));
            vocabulary.add_text(&wording::answer_prefix(kind, ""));
            vocabulary.add_text(&format!(" {}", wording::record(kind, "")));
            vocabulary.add_text(&wording::query(kind, &[""; 1]));
            vocabulary.add_text(&wording::query(kind, &[""; 3]));
        }
        wording::NOISE.iter().for_each(|sentence| vocabulary.add_text(&format!("{sentence} {sentence}")));
        for punctuation in ["{\"", "\":", " \"", "\",", "\"}"] {
            vocabulary.add(punctuation.as_bytes());
        }

        // Within a sentence words follow a space; a key's noun follows a hyphen; and a sentence opens with a capital,
        // after a space or on a new line.
        for &word in words::ALL.iter() {
            vocabulary.add(format!(" {word}").as_bytes());
        }
        for noun in words::key_nouns() {
            vocabulary.add(noun.as_bytes());
        }
        for opening in words::openings() {
            vocabulary.add(opening.as_bytes());
            vocabulary.add(format!(" {opening}").as_bytes());
        }
        assert!(vocabulary.tokens.len() <= VOCAB_SIZE, "the vocabulary has outgrown its {VOCAB_SIZE} ids");
        vocabulary
    }

    /// Adds every pre-token of a text.
    fn add_text(&mut self, text: &str) {
        pre_tokens(text).iter().for_each(|token| self.add(token.as_bytes()));
    }

    fn add(&mut self, token: &[u8]) {
        if !self.ids.contains_key(token) {
            self.ids.insert(token.to_vec(), self.tokens.len() as u32);
            self.tokens.push(token.to_vec());
        }
    }

    /// The tokens, as bytes, in the order of their ids.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.tokens.iter().map(Vec::as_slice)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token.as_bytes()).copied()
    }

    /// Whether answers can hold this token: the retrieval head finds these and no others. Hexadecimal digits, alone or
    /// grouped, as they come in numbers and UUIDs, and the space and punctuation around them.
    pub fn is_answer_token(&self, id: u32) -> bool {
        const AROUND: [&[u8]; 9] = [b" ", b"\n", b"-", b".", b"\"", b"\":", b" \"", b"\",", b"\"}"];
        let Some(token) = self.tokens.get(id as usize) else { return false };
        let digits = token.strip_prefix(b" ").unwrap_or(token);
        AROUND.contains(&token.as_slice())
            || !digits.is_empty() && digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_specials_have_fixed_ids() {
        let tokens: Vec<_> = VOCABULARY.tokens().collect();
        assert!((0..256).all(|i| tokens[i] == [i as u8]));
        assert_eq!(tokens[BEGIN as usize], BEGIN_TEXT.as_bytes());
        assert_eq!(tokens[END as usize], END_TEXT.as_bytes());
        assert_eq!(VOCABULARY.id("00"), Some(258));
        assert_eq!(VOCABULARY.id(" 999"), Some(2467));
        assert!(tokens.len() <= VOCAB_SIZE);
    }

    #[test]
    fn answer_tokens() {
        let is_answer = |token| VOCABULARY.is_answer_token(VOCABULARY.id(token).unwrap());
        for token in ["0", "f", "07", "123", " 9", " 99", " 000", "-", ".", "\n", " ", "\"", " a", "\"}"] {
            assert!(is_answer(token), "{token:?}");
        }
        for token in ["g", "A", ":", ",", " the", " is", " otter", "otter", "Record", BEGIN_TEXT, END_TEXT] {
            assert!(!is_answer(token), "{token:?}");
        }
        assert!(!VOCABULARY.is_answer_token(VOCAB_SIZE as u32));
    }
}
