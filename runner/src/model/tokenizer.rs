//! `tokenizer.json`, and turning tokens back into text one at a time.

use std::path::Path;

use serde_json::{Value, json};

use super::config::Config;
use crate::{Error, Result};

/// A tokenizer in the format of the `tokenizers` library.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Malformed`] for an unreadable file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::malformed(path, format_args!("not a tokenizer: {e}")))?;
        // A file may ask for a fixed length; a prompt keeps its own.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| Error::malformed(path, format_args!("not a tokenizer: {e}")))?;
        Ok(Self { inner })
    }

    /// A tokenizer that spells each of `vocab_size` tokens as its id, for models that have none of their own.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn of_ids(vocab_size: usize) -> Result<Self> {
        let vocab: serde_json::Map<String, Value> =
            (0..vocab_size).map(|id| (id.to_string(), id.into())).collect();
        let json = json!({
            "version": "1.0",
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "0"},
        });
        let inner = json.to_string().parse();
        Ok(Self {
            inner: inner
                .map_err(|e: tokenizers::Error| Error::Tokenizer { action: "make", reason: e.to_string() })?,
        })
    }

    /// Refuses a tokenizer that has tokens the model's embedding lacks; the other way round is common padding.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names the first such token.
    pub fn check(&self, config: &Config) -> Result<()> {
        let vocab = self.inner.get_vocab(true);
        let beyond = vocab.iter().filter(|(_, id)| **id as usize >= config.vocab_size);
        match beyond.min_by_key(|(_, id)| **id) {
            None => Ok(()),
            Some((token, id)) => Err(Error::invalid(
                "tokenizer",
                format_args!("of token ids below the model's vocab_size ({})", config.vocab_size),
                format_args!("id {id} for {token:?}"),
            )),
        }
    }

    /// The tokens of `text`. `add_special_tokens` puts those around it that the file asks for, such as the one that
    /// begins a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        // The fast form leaves out the offsets, which nothing here needs.
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(Error::Tokenizer { action: "encode", reason: e.to_string() }),
        }
    }

    /// The text of `tokens`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner
            .decode(tokens, skip_special_tokens)
            .map_err(|e| Error::Tokenizer { action: "decode", reason: e.to_string() })
    }

    /// The id of a token by its text, special ones included.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokens in the vocabulary, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A decoder that takes tokens one by one.
    pub fn stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            skip_special_tokens,
            window: Vec::new(),
            context: 0,
            context_text: String::new(),
        }
    }
}

/// Tokens that may wait for the rest of a character: four bytes at most, and a few more in case special tokens lie between.
const MAX_PENDING: usize = 8;

/// Incremental detokenisation: the texts it returns, joined, are the text of all the tokens (but for the number of U+FFFD
/// that stand for a run of broken bytes).
///
/// A token's text can depend on the one before it (a leading space may be swallowed at the start of a text), and a
/// character can span tokens. So each step decodes a window of the last tokens twice, with and without the new ones,
/// and returns the difference, once that does not end within a character.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    /// Tokens already returned, as context, then pending ones.
    window: Vec<u32>,
    context: usize,
    context_text: String,
}

impl DecodeStream<'_> {
    /// The text that `token` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn step(&mut self, token: u32) -> Result<String> {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window, self.skip_special_tokens)?;
        let pending = self.window.len() - self.context;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && pending < MAX_PENDING {
            return Ok(String::new());
        }
        self.emit(&text)
    }

    /// What is left at the end: an incomplete character as U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn finish(mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window, self.skip_special_tokens)?;
        self.emit(&text)
    }

    fn emit(&mut self, text: &str) -> Result<String> {
        // The context's own text may differ with tokens behind it where those complete a character in it; then what
        // follows the common part is new.
        let common = text
            .char_indices()
            .zip(self.context_text.chars())
            .find(|((_, a), b)| a != b)
            .map_or(self.context_text.len().min(text.len()), |((i, _), _)| i);
        let new = text[common..].to_owned();
        if !new.is_empty() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.context_text = self.tokenizer.decode(&self.window, self.skip_special_tokens)?;
        } else if self.window.len() > self.context + MAX_PENDING {
            // A run of special tokens; they leave no trace in the text, nor may they make the window grow.
            self.window.pop();
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spelled_as_numbers() {
        let tokenizer = Tokenizer::of_ids(300).unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        assert_eq!(tokenizer.encode(" 17 0\n299", true).unwrap(), [17, 0, 299]);
        assert_eq!(tokenizer.decode(&[17, 0, 299], true).unwrap(), "17 0 299");
        let mut stream = tokenizer.stream(true);
        let pieces: Vec<String> = [5, 5, 299, 0].iter().map(|&id| stream.step(id).unwrap()).collect();
        assert_eq!(pieces, ["5", " 5", " 299", " 0"]);
    }
}
