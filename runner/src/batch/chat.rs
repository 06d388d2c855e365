//! Conversations as a model's tokens spell them.

use super::records::Message;
use crate::model::Tokenizer;
use crate::{Error, Result};

/// How a conversation becomes one text. The token that begins a text is not part of it: the tokenizer adds that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatFormat {
    /// Llama 3: `<|start_header_id|>user<|end_header_id|>`, an empty line, the text, `<|eot_id|>`.
    Llama3,
    /// ChatML: `<|im_start|>user`, a new line, the text, `<|im_end|>` and a new line.
    ChatMl,
}

impl ChatFormat {
    /// The format whose tokens a tokenizer has.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where it has those of none.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        for (format, token) in [(Self::Llama3, "<|start_header_id|>"), (Self::ChatMl, "<|im_start|>")] {
            if tokenizer.token_to_id(token).is_some() {
                return Ok(format);
            }
        }
        let expected = "one with the tokens of Llama 3 or ChatML conversations, where records hold messages";
        Err(Error::invalid("the tokenizer", expected, "one without"))
    }

    /// The conversation, up to where the assistant's next message begins.
    pub fn text(self, messages: &[Message]) -> String {
        let (head, middle, tail) = match self {
            Self::Llama3 => ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
            Self::ChatMl => ("<|im_start|>", "\n", "<|im_end|>\n"),
        };
        let said = |Message { role, content }: &Message| format!("{head}{role}{middle}{content}{tail}");
        messages.iter().map(said).collect::<String>() + head + "assistant" + middle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_end_where_the_answer_begins() {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let messages = [message("system", "Be brief."), message("user", "Hi")];
        assert_eq!(
            ChatFormat::Llama3.text(&messages),
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert_eq!(
            ChatFormat::ChatMl.text(&messages),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_tokenizer_without_such_tokens_is_refused() {
        let error = ChatFormat::of(&Tokenizer::of_ids(8).unwrap()).unwrap_err();
        assert!(error.to_string().contains("where records hold messages"), "{error}");
    }
}
