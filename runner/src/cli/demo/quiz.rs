//! All questions of a prompt, asked of one model.

use lacuna_runner::Result;
use lacuna_runner::attn::Attn;
use lacuna_runner::comm::Communicator;
use lacuna_runner::context::{self, Prefilled};
use lacuna_runner::generate::StopStrings;
use lacuna_runner::model::{ForwardOptions, LogitRows, Model, Session, Tokenizer};
use lacuna_runner::needle::Prompt;

use crate::cli::cost::Cost;
use crate::cli::progress::Passes;

/// Tokens of one answer, at most: those of a value and its full stop, and some to spare.
pub const MAX_ANSWER: usize = 16;

/// A model, and what it is asked.
pub struct Quiz<'a> {
    pub model: &'a dyn Model,
    pub eos_token_ids: &'a [u32],
    pub tokenizer: &'a Tokenizer,
    pub prompt: &'a Prompt,
}

impl Quiz<'_> {
    /// Runs the prompt by a kind of attention and answers its questions, in their order; every rank of `comm` does its part.
    pub fn ask(
        &self,
        comm: &dyn Communicator,
        attn: &Attn,
        passes: &mut Passes<'_>,
    ) -> Result<(Vec<String>, Cost)> {
        let Prompt { tokens: all, query_start, questions, .. } = self.prompt;
        let (context, query) = all.split_at(*query_start);
        let Prefilled { mut session, tokens, forward, report } =
            context::prefill(self.model, comm, context, query, &attn.options(MAX_ANSWER), passes)?;
        let before = all.len() - tokens.len();
        let rows: Vec<usize> = questions.iter().map(|question| question.position - before).collect();
        let options = ForwardOptions { logits: LogitRows::These(&rows), ..forward };
        let held = session.len();
        let (logits, last) = session.forward(&tokens, &options, passes)?;
        let vocab_size = logits.len() / rows.len();
        let mut answers = vec![String::new(); rows.len()];
        // Rolling back forgets what comes after: the last question first.
        for ((&row, logits), answer) in rows.iter().zip(logits.chunks(vocab_size)).zip(&mut answers).rev() {
            session.truncate(held + row + 1)?;
            *answer = self.decode(&mut *session, likeliest(logits))?;
        }
        let lens = [all.len(), *query_start];
        Ok((answers, Cost::new(self.model, attn.method(), lens, &report, &last)))
    }

    /// Goes on from the first token of an answer to its full stop.
    fn decode(&self, session: &mut dyn Session, first: u32) -> Result<String> {
        let mut stream = self.tokenizer.stream(true);
        let mut stops = StopStrings::new(["."]);
        let (mut text, mut token) = (String::new(), first);
        for _ in 0..MAX_ANSWER {
            if self.eos_token_ids.contains(&token) {
                break;
            }
            let (piece, stopped) = stops.push(&stream.step(token)?);
            text += &piece;
            if stopped {
                break;
            }
            token = likeliest(session.decode(token)?);
        }
        Ok(text.trim().to_owned())
    }
}

/// The token of the largest logit; of equals the one with the lowest id.
fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().zip(0..).reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map_or(0, |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_of_equals_is_the_first() {
        assert_eq!(likeliest(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
