//! From a record to tokens.

use super::chat::ChatFormat;
use super::formats::Format;
use super::records::Text;
use crate::context::Method;
use crate::model::Tokenizer;
use crate::{Error, Result};

/// How prompts become tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptOptions {
    /// Whether a context and its query are tokenised apart. Default [`Tokenize::Split`].
    pub tokenize: Tokenize,
    /// Put the special tokens around a prompt that its tokenizer asks for. Default true.
    pub special_tokens: bool,
    /// The query of a prompt that does not say where its query begins: its last so many tokens. At least 1. Default `None`.
    pub query_tokens: Option<usize>,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self { tokenize: Tokenize::Split, special_tokens: true, query_tokens: None }
    }
}

/// How a context and its query become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tokenize {
    /// Apart, special tokens before the context alone.
    #[default]
    Split,
    /// As one text. The context ends where its tokens are no longer those that it has alone.
    Joint,
}

impl Format {
    /// Whether its records say where their queries begin.
    pub fn splits(self) -> bool {
        matches!(self, Self::Star | Self::Babilong | Self::InfiniteBench)
    }
}

impl PromptOptions {
    /// Refuses a method that needs to know where queries begin, for records that do not say so; and an option that records of
    /// this format have no use for.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn check(&self, format: Format, method: &Method) -> Result<()> {
        let name = format.name();
        match self.query_tokens {
            None if !format.splits() && *method != Method::Full => {
                let expected =
                    format!("given for {} and {name} records: they do not say where", method.name());
                Err(Error::invalid("query_tokens", expected + " their queries begin", "none"))
            }
            Some(0) => Err(Error::invalid("query_tokens", "at least 1", 0)),
            Some(n) if format.splits() => {
                let expected = format_args!("none for {name} records, which say where their queries begin");
                Err(Error::invalid("query_tokens", expected, n))
            }
            _ => Ok(()),
        }
    }

    /// The tokens of the context and of the query; the query is not empty.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]; [`Error::InvalidArgument`] for a text without tokens, and for messages where the tokenizer has no
    /// tokens for them.
    pub fn tokens(&self, text: &Text, tokenizer: &Tokenizer) -> Result<[Vec<u32>; 2]> {
        let whole = |text: &str| -> Result<[Vec<u32>; 2]> {
            let mut context = tokenizer.encode(text, self.special_tokens)?;
            let query_len = self.query_tokens.unwrap_or(usize::MAX);
            let query = context.split_off(context.len().saturating_sub(query_len));
            Ok([context, query])
        };
        let [context, query] = match text {
            Text::Split { context, query } => match self.tokenize {
                Tokenize::Split => {
                    [tokenizer.encode(context, self.special_tokens)?, tokenizer.encode(query, false)?]
                }
                Tokenize::Joint => {
                    let alone = tokenizer.encode(context, self.special_tokens)?;
                    let mut tokens = tokenizer.encode(&format!("{context}{query}"), self.special_tokens)?;
                    let common = alone.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
                    let query = tokens.split_off(common);
                    [tokens, query]
                }
            },
            Text::Whole(text) => whole(text)?,
            Text::Messages(messages) => whole(&ChatFormat::of(tokenizer)?.text(messages))?,
        };
        if query.is_empty() {
            return Err(Error::invalid("the query", "at least 1 token", "none"));
        }
        Ok([context, query])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_ids(100).unwrap()
    }

    fn tokens(options: &PromptOptions, text: Text) -> Result<[Vec<u32>; 2]> {
        options.tokens(&text, &tokenizer())
    }

    fn split(context: &str, query: &str) -> Text {
        Text::Split { context: context.into(), query: query.into() }
    }

    #[test]
    fn a_query_is_tokenised_apart_or_jointly() {
        let joint = PromptOptions { tokenize: Tokenize::Joint, ..Default::default() };
        for options in [PromptOptions::default(), joint.clone()] {
            assert_eq!(tokens(&options, split("1 2 3", " 4")).unwrap(), [vec![1, 2, 3], vec![4]]);
            assert_eq!(tokens(&options, split("", "4")).unwrap(), [vec![], vec![4]]);
            assert!(tokens(&options, split("1", " ")).unwrap_err().to_string().contains("at least 1 token"));
        }
        // A token across the border belongs to the query.
        assert_eq!(tokens(&joint, split("1 2 3", "4 5")).unwrap(), [vec![1, 2], vec![34, 5]]);
        assert_eq!(tokens(&Default::default(), split("1 2 3", "4 5")).unwrap(), [vec![1, 2, 3], vec![4, 5]]);
    }

    #[test]
    fn the_query_of_a_whole_text_is_its_last_tokens() {
        let text = || Text::Whole("1 2 3".into());
        assert_eq!(tokens(&Default::default(), text()).unwrap(), [vec![], vec![1, 2, 3]]);
        for (n, context) in [(1, vec![1, 2]), (2, vec![1]), (3, vec![]), (9, vec![])] {
            let options = PromptOptions { query_tokens: Some(n), ..Default::default() };
            assert_eq!(tokens(&options, text()).unwrap()[0], context);
        }
    }

    #[test]
    fn methods_that_need_a_query_say_so() {
        let with = |query_tokens| PromptOptions { query_tokens, ..Default::default() };
        let star = Method::Star(Default::default());
        assert!(with(None).check(Format::Star, &star).is_ok());
        assert!(with(None).check(Format::Ruler, &Method::Full).is_ok());
        assert!(with(Some(3)).check(Format::Ruler, &star).is_ok());
        let refused = |options: PromptOptions, format| options.check(format, &star).unwrap_err().to_string();
        assert!(refused(with(None), Format::Prompt).contains("given for star and prompt records"));
        assert!(refused(with(Some(3)), Format::Star).contains("none for star records"));
        assert!(refused(with(Some(0)), Format::Ruler).contains("at least 1"));
    }
}
