//! From tokens to an answer, on one rank or several.
//!
//! Rank 0 has the questions, and asks them ([`Answerer::ask`]); the others run what they are asked ([`Answerer::serve`]).

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::fingerprint::Fingerprint;
use super::prediction::round;
use crate::comm::{Alone, Communicator};
use crate::context::{self, Method, prefill};
use crate::generate::{FinishReason, GenerateOptions, generate};
use crate::model::{LayerReport, Model, Observer, Tokenizer};
use crate::{Error, Result};

/// Answers questions, one after the other, each in a session of its own.
pub struct Answerer<'a> {
    model: &'a dyn Model,
    comm: &'a dyn Communicator,
    tokenizer: &'a Tokenizer,
    methods: &'a [context::Options],
    generate: GenerateOptions,
    /// When the other ranks last heard of this one.
    last: Cell<Instant>,
}

/// What rank 0 says where it has no question: that it is at work. Nothing at all says that it has no more.
const WORKING: &[u8] = &[0];
/// Time between two signs of life.
const INTERVAL: Duration = Duration::from_secs(1);

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Index of the way to run it.
    pub method: usize,
    /// The context; may be empty.
    pub context: Vec<u32>,
    /// The query; not empty.
    pub query: Vec<u32>,
}

/// A generated answer, and what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The tokens, with the one that ended the text where one did.
    pub tokens: Vec<u32>,
    /// The text, without a stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it took.
    pub costs: Costs,
}

/// What an answer took, on rank 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// Tokens of the context.
    pub context_tokens: usize,
    /// Tokens of the query.
    pub query_tokens: usize,
    /// Tokens of the context whose keys and values were kept for the answer.
    pub kept_tokens: usize,
    /// The share of the causal attention that was computed, to six decimals: over the context, or over the whole prompt where the
    /// method runs it in one pass. The sum over all ranks.
    pub density: f64,
    /// From the first token to the logits of the last.
    pub prefill: Duration,
    /// Of it, time in searches.
    pub search: Duration,
    /// Of it, time in attention.
    pub attention: Duration,
    /// From the first token of the answer to the last.
    pub decode: Duration,
}

/// Whether an error is that of one prompt, rather than of the model, the machine or the run.
pub fn is_of_sample(error: &Error) -> bool {
    match error {
        Error::TooLong { .. }
        | Error::InvalidArgument { .. }
        | Error::NotFinite { .. }
        | Error::Tokenizer { .. } => true,
        Error::Attention(e) => !matches!(e, lacuna::Error::Device(_)),
        _ => false,
    }
}

impl<'a> Answerer<'a> {
    /// One rank's end, with the ways to run a context, one of which a question names. The pattern, the thresholds and the tokens
    /// seen before, which `generate` may hold, are those of the method and the question instead.
    pub fn new(
        model: &'a dyn Model,
        comm: &'a dyn Communicator,
        tokenizer: &'a Tokenizer,
        methods: &'a [context::Options],
        generate: GenerateOptions,
    ) -> Self {
        Self { model, comm, tokenizer, methods, generate, last: Cell::new(Instant::now()) }
    }

    /// Answers a question; called by rank 0. Under [`Method::Full`], of which nothing is shared, rank 0 works alone. The inner
    /// error is one of this question alone, after which the next one can be asked.
    ///
    /// # Errors
    /// As [`prefill`] and [`generate`]. With several ranks every error of these, since the ranks may have failed at different
    /// points; a prompt that is too long is refused before they begin.
    pub fn ask(
        &self,
        question: &Question,
        progress: &mut dyn context::Progress,
    ) -> Result<Result<Answer, Error>> {
        if let Err(e) = self.check(question) {
            return Ok(Err(e));
        }
        let method = self.methods.get(question.method).map(|options| &options.method);
        let alone = self.comm.world_size() == 1 || method == Some(&Method::Full);
        let answer = if alone {
            self.answer(&Alone, question, &mut Watched { inner: progress, alive: &|| self.alive() })
        } else {
            self.comm.broadcast(0, &question.to_bytes())?;
            self.answer(self.comm, question, progress)
        };
        match answer {
            Ok(answer) => Ok(Ok(answer)),
            Err(e) if alone && is_of_sample(&e) => Ok(Err(e)),
            Err(e) => Err(e),
        }
    }

    /// Lets the other ranks know that rank 0 is at work; called by it, now and then, while it asks nothing.
    pub fn alive(&self) {
        if self.comm.world_size() > 1 && self.last.get().elapsed() >= INTERVAL {
            self.last.set(Instant::now());
            // A rank that has ended is noticed at the next question.
            let _ = self.comm.broadcast(0, WORKING);
        }
    }

    /// Tells the other ranks that there are no more questions.
    ///
    /// # Errors
    /// As [`Communicator::broadcast`].
    pub fn finish(&self) -> Result<()> {
        if self.comm.world_size() > 1 {
            self.comm.broadcast(0, &[])?;
        }
        Ok(())
    }

    /// Runs what rank 0 asks, until it has no more questions; called by the other ranks.
    ///
    /// # Errors
    /// As [`Answerer::ask`]; [`Error::Rank`] where rank 0 fails.
    pub fn serve(&self) -> Result<()> {
        loop {
            let message = self.comm.broadcast(0, &[])?;
            if message.is_empty() {
                return Ok(());
            }
            if message == WORKING {
                continue;
            }
            let question = Question::from_bytes(&message).ok_or_else(|| {
                Error::invalid("rank 0's message", "a question", format_args!("{} bytes", message.len()))
            })?;
            self.check(&question)?;
            self.answer(self.comm, &question, &mut ())?;
        }
    }

    fn check(&self, question: &Question) -> Result<()> {
        if question.method >= self.methods.len() {
            let expected = format_args!("one of {}", self.methods.len());
            return Err(Error::invalid("method", expected, question.method));
        }
        let limit = self.model.config().max_position_embeddings;
        let tokens = question.context.len() + question.query.len();
        if tokens > limit {
            let (what, limit_name) = ("the prompt", "max_position_embeddings");
            return Err(Error::TooLong { what, tokens, limit_name, limit });
        }
        Ok(())
    }

    fn answer(
        &self,
        comm: &dyn Communicator,
        question: &Question,
        progress: &mut dyn context::Progress,
    ) -> Result<Answer> {
        let Question { method, context, query } = question;
        let prompt_len = context.len() + query.len();
        let room = self.model.config().max_position_embeddings - prompt_len;
        let mut options = self.methods[*method].clone();
        options.max_new_tokens = self.generate.max_new_tokens.min(room);
        let mut prefilled = prefill(self.model, comm, context, query, &options, progress)?;
        let in_one_pass = prefilled.tokens.len() == prompt_len;
        let generation = generate(
            &mut *prefilled.session,
            self.tokenizer,
            &prefilled.tokens,
            &GenerateOptions {
                pattern: prefilled.forward.pattern.clone(),
                thresholds: prefilled.forward.thresholds.clone(),
                seen: if in_one_pass { Vec::new() } else { context.clone() },
                ..self.generate.clone()
            },
            progress.observer(),
            &mut |_| {
                if comm.world_size() == 1 {
                    self.alive();
                }
                ControlFlow::Continue(())
            },
        )?;
        let report = prefilled.report;
        let costs = Costs {
            context_tokens: context.len(),
            query_tokens: query.len(),
            kept_tokens: if in_one_pass { context.len() } else { report.kept_tokens },
            // The order in which ranks add up shows in the last digits.
            density: round(if in_one_pass { generation.prefill.density() } else { report.density }, 1e6),
            prefill: report.total + generation.prefill.total,
            search: report.search + generation.prefill.search(),
            attention: report.attention + generation.prefill.attention(),
            decode: generation.decode,
        };
        Ok(Answer {
            tokens: generation.tokens,
            text: generation.text,
            finish_reason: generation.finish_reason,
            costs,
        })
    }
}

/// Tells at every layer that the work goes on.
struct Watched<'a> {
    inner: &'a mut dyn context::Progress,
    alive: &'a dyn Fn(),
}

impl context::Progress for Watched<'_> {
    fn pass(&mut self, done: usize, passes: usize) {
        self.inner.pass(done, passes);
    }

    fn observer(&mut self) -> &mut dyn Observer {
        self
    }
}

impl Observer for Watched<'_> {
    fn layer(&mut self, layer: usize, report: &LayerReport) {
        (self.alive)();
        self.inner.observer().layer(layer, report);
    }
}

impl Question {
    /// The method, the length of the context, the tokens of both parts.
    fn to_bytes(&self) -> Vec<u8> {
        let head = [self.method as u32, self.context.len() as u32];
        head.iter().chain(&self.context).chain(&self.query).flat_map(|x| x.to_le_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (&[method, context_len], tokens) = words.split_first_chunk()?;
        let (context, query) = tokens.split_at_checked(context_len as usize)?;
        let whole = rest.is_empty() && !query.is_empty();
        whole.then(|| Self { method: method as usize, context: context.to_vec(), query: query.to_vec() })
    }
}

impl Fingerprint {
    /// Adds the number of ranks, where the answers under a method depend on it.
    pub fn with_ranks(self, method: &Method, ranks: usize) -> Self {
        let blocks_are_ranks = match method {
            Method::Star(star) => star.block_size.is_none(),
            Method::StarX(star_x) => star_x.star.block_size.is_none(),
            _ => false,
        };
        self.with("ranks", if blocks_are_ranks { ranks } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_back() {
        for (context, query) in [(vec![], vec![1]), (vec![1, 2, u32::MAX], vec![3, 4])] {
            let question = Question { method: 2, context, query };
            let bytes = question.to_bytes();
            assert_eq!(Question::from_bytes(&bytes), Some(question));
            assert_eq!(Question::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
        let no_query = Question { method: 0, context: vec![1], query: vec![] };
        for bytes in [&no_query.to_bytes()[..], &[], &[0; 4], &[255; 12]] {
            assert_eq!(Question::from_bytes(bytes), None);
        }
    }
}
