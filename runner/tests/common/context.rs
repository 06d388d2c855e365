//! Contexts run by a method, on one rank and on several.

use std::time::Duration;

use lacuna::Pattern;
use lacuna_runner::Result;
use lacuna_runner::comm::{Alone, Communicator, threads};
use lacuna_runner::context::{self, Method, Options};
use lacuna_runner::generate::{Sampler, SamplingOptions};
use lacuna_runner::model::{self, ForwardOptions, LogitRows, Model};

/// What a method made of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Of all tokens of the query, `[query, vocab_size]`.
    pub logits: Vec<f32>,
    /// The tokens that follow, the likeliest each time.
    pub tokens: Vec<u32>,
    pub report: context::Report,
}

/// Loads a model on the CPU.
pub fn load(dir: &std::path::Path) -> Box<dyn Model> {
    model::load(dir, &Default::default(), &mut |_| ()).unwrap()
}

/// Runs context and query by `options` on one rank, and decodes `decoded` tokens.
pub fn answer_on(
    model: &dyn Model,
    comm: &dyn Communicator,
    context: &[u32],
    query: &[u32],
    options: &Options,
    decoded: usize,
) -> Result<Answer> {
    let options = Options { max_new_tokens: decoded, ..options.clone() };
    let mut prefilled = context::prefill(model, comm, context, query, &options, &mut ())?;
    let past = prefilled.tokens.len() - query.len();
    let rows: Vec<usize> = (past..prefilled.tokens.len()).collect();
    let forward = ForwardOptions { logits: LogitRows::These(&rows), ..prefilled.forward };
    let (logits, _) = prefilled.session.forward(&prefilled.tokens, &forward, &mut ())?;
    let mut sampler = Sampler::new(SamplingOptions::default())?;
    let vocab_size = model.config().vocab_size;
    let mut tokens = Vec::new();
    let mut seen = [context, query].concat();
    for _ in 0..decoded {
        let next = match tokens.last() {
            None => sampler.sample(&logits[logits.len() - vocab_size..], &seen)?,
            Some(&token) => prefilled.session.next_token(token, &mut sampler, &seen)?,
        };
        seen.push(next);
        tokens.push(next);
    }
    Ok(Answer { logits, tokens, report: prefilled.report })
}

/// Runs the whole prompt alone.
pub fn answer(
    model: &dyn Model,
    context: &[u32],
    query: &[u32],
    options: &Options,
    decoded: usize,
) -> Answer {
    answer_on(model, &Alone, context, query, options, decoded).unwrap()
}

/// Runs the prompt on several ranks; what each of them saw.
pub fn answers(
    model: &dyn Model,
    ranks: usize,
    context: &[u32],
    query: &[u32],
    options: &Options,
    decoded: usize,
) -> Vec<Answer> {
    threads::run(ranks, Duration::from_secs(60), |comm| {
        answer_on(model, comm, context, query, options, decoded)
    })
    .unwrap()
}

/// The options of a method under dense attention.
pub fn by(method: Method) -> Options {
    Options { method, ..Default::default() }
}

/// The options of a method under a pattern.
pub fn with(method: Method, pattern: Pattern) -> Options {
    Options { method, pattern, ..Default::default() }
}
