//! From a method to a session that holds the context.

use std::time::{Duration, Instant};

use lacuna::{Pattern, ThresholdTable};

use super::{Method, compress, ring, sequential_top_k, sharded, star, star_top_k, star_x, summary};
use crate::comm::Communicator;
use crate::error::allocate;
use crate::model::{
    Config, ForwardOptions, KvSession, LogitRows, Model, Observer, PassOptions, PassOutput, Reads, Session,
};
use crate::{Error, Result};

/// What to run, and by which method.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How the prompt is cut and what is kept of it. Default [`Method::Full`].
    pub method: Method,
    /// The attention pattern of the passes over the context. Default dense.
    pub pattern: Pattern,
    /// As [`ForwardOptions::thresholds`].
    pub thresholds: Option<ThresholdTable>,
    /// Tokens to leave room for after the query. Default 0.
    pub max_new_tokens: usize,
}

/// A context that has been run, ready for its query.
pub struct Prefilled<'m> {
    /// Holds the context.
    pub session: Box<dyn Session + 'm>,
    /// What is to be run on the session: the query; under [`Method::Full`], whose session is empty, the whole prompt.
    pub tokens: Vec<u32>,
    /// How to run it.
    pub forward: ForwardOptions<'static>,
    /// What it took.
    pub report: Report,
}

/// What the passes over a context took. Under [`Method::Full`] there are none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Tokens of the context.
    pub context_tokens: usize,
    /// Passes on this rank.
    pub passes: usize,
    /// Tokens of these passes.
    pub run_tokens: usize,
    /// Tokens whose keys and values are kept for the answer, on all ranks.
    pub kept_tokens: usize,
    /// Bytes of them on this rank.
    pub kv_bytes: u64,
    /// Pairs of a query and a key that the passes of all ranks computed, in units of those that one dense pass over the context
    /// has.
    pub density: f64,
    /// Time in searches, on this rank.
    pub search: Duration,
    /// Time in attention, on this rank.
    pub attention: Duration,
    /// From the first token to the last, on this rank.
    pub total: Duration,
}

/// Follows the passes of a context. `()` looks away.
pub trait Progress {
    /// `done` of `passes` passes are done, on this rank.
    fn pass(&mut self, done: usize, passes: usize) {
        let _ = (done, passes);
    }

    /// Watches the pass that comes next.
    fn observer(&mut self) -> &mut dyn Observer;
}

impl Progress for () {
    fn observer(&mut self) -> &mut dyn Observer {
        self
    }
}

/// Runs `context` by a method, for `query` to be run after it; every rank of `comm` calls it with the same arguments.
///
/// # Examples
/// ```no_run
/// use lacuna_runner::comm::Alone;
/// use lacuna_runner::context::{Method, Options, StarOptions, prefill};
/// use lacuna_runner::model::{self, Tokenizer};
///
/// let dir = std::path::Path::new("llama-3.1-8b");
/// let model = model::load(dir, &Default::default(), &mut |_| ())?;
/// let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"))?;
/// let context = tokenizer.encode("A long text.", true)?;
/// let query = tokenizer.encode("\nWhere is Mary?", false)?;
/// let star = StarOptions { block_size: Some(4096), ..Default::default() };
/// let options = Options { method: Method::Star(star), max_new_tokens: 16, ..Default::default() };
/// let mut prefilled = prefill(&*model, &Alone, &context, &query, &options, &mut ())?;
/// let (logits, _) = prefilled.session.forward(&prefilled.tokens, &prefilled.forward, &mut ())?;
/// println!("{} logits over {} kept tokens", logits.len(), prefilled.report.kept_tokens);
/// # Ok::<(), lacuna_runner::Error>(())
/// ```
///
/// # Errors
/// As [`Session::forward`]; [`Error::InvalidArgument`] for options of the method that are out of range, for patterns that it does
/// not combine with, and for an empty query; [`Error::Rank`] where another rank fails.
pub fn prefill<'m>(
    model: &'m dyn Model,
    comm: &'m dyn Communicator,
    context: &[u32],
    query: &[u32],
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Prefilled<'m>> {
    if query.is_empty() {
        return Err(Error::invalid("query", "at least 1 token", "none"));
    }
    options.method.check()?;
    let mut run = Run {
        model,
        comm,
        context,
        query,
        options,
        progress,
        passes: 0,
        pairs: 0.0,
        report: Report { context_tokens: context.len(), ..Default::default() },
    };
    let start = Instant::now();
    if options.method == Method::Full || context.is_empty() {
        let tokens = [context, query].concat();
        return Ok(Prefilled {
            session: run.session(tokens.len() + options.max_new_tokens)?,
            tokens,
            forward: run.forward_options(),
            report: run.report,
        });
    }
    let session = match &options.method {
        Method::Full => unreachable!("it returned above"),
        Method::Ring => ring::prefill(&mut run)?,
        Method::Star(star) => star::prefill(&mut run, star)?,
        Method::StarX(star_x) => star_x::prefill(&mut run, star_x)?,
        Method::StarTopK(top_k) => star_top_k::prefill(&mut run, top_k)?,
        Method::SequentialTopK(top_k) => sequential_top_k::prefill(&mut run, top_k)?,
        Method::Compress(compress) => compress::prefill(&mut run, compress)?,
        Method::Summary(summary) => summary::prefill(&mut run, summary)?,
    };
    let report = run.finish(start)?;
    Ok(Prefilled { session, tokens: query.to_vec(), forward: ForwardOptions::default(), report })
}

/// One prefill, on one rank.
pub(super) struct Run<'m, 'a> {
    pub model: &'m dyn Model,
    pub comm: &'m dyn Communicator,
    pub context: &'a [u32],
    pub query: &'a [u32],
    pub options: &'a Options,
    progress: &'a mut dyn Progress,
    /// Passes announced.
    passes: usize,
    /// Pairs computed.
    pairs: f64,
    pub report: Report,
}

impl<'m> Run<'m, '_> {
    pub fn config(&self) -> &'m Config {
        self.model.config()
    }

    /// Room for the query and the answer.
    pub fn room(&self) -> usize {
        self.query.len() + self.options.max_new_tokens
    }

    /// An empty session with room for `capacity` tokens.
    pub fn session(&self, capacity: usize) -> Result<Box<dyn KvSession + 'm>> {
        self.model.session(capacity)
    }

    /// How many passes this rank is going to run, for those who watch.
    pub fn announce(&mut self, passes: usize) {
        self.passes = passes;
        self.progress.pass(self.report.passes, passes);
    }

    /// A pass of `tokens` at `position_ids` under the options' pattern, without logits.
    pub fn pass<'p>(
        &mut self,
        session: &mut dyn KvSession,
        tokens: &[u32],
        position_ids: &'p [u32],
        options: PassOptions<'p>,
    ) -> Result<PassOutput> {
        let past = match options.reads {
            Reads::Cached { from } => session.len().saturating_sub(from),
            // Each rank reads the ranks before it: positions say how many tokens those have.
            Reads::Ring(_) => position_ids.first().map_or(0, |&first| first as usize),
            Reads::Shards(_) => 0,
        };
        let forward = ForwardOptions {
            position_ids: Some(position_ids),
            logits: LogitRows::These(&[]),
            ..self.forward_options()
        };
        let options = PassOptions { forward, ..options };
        let output = session.pass(tokens, options, self.progress.observer())?;
        self.report.passes += 1;
        self.report.run_tokens += tokens.len();
        self.report.search += output.report.search();
        self.report.attention += output.report.attention();
        self.pairs += output.report.density() * pairs(tokens.len(), past);
        self.progress.pass(self.report.passes, self.passes.max(self.report.passes));
        Ok(output)
    }

    fn forward_options(&self) -> ForwardOptions<'static> {
        ForwardOptions {
            pattern: self.options.pattern.clone(),
            thresholds: self.options.thresholds.clone(),
            ..Default::default()
        }
    }

    /// Counts what a session holds as kept for the answer.
    pub fn keeps(&mut self, session: &dyn KvSession) {
        self.report.kept_tokens = session.len();
        self.report.kv_bytes = (session.len() * session.kv_bytes_per_token()) as u64;
    }

    /// Ends a method whose rank 0 ran everything: deals the rows of its session, in shards of `shard` tokens, out to all ranks. The
    /// query starts at `position`. On ranks but the first, `session` is `None`.
    pub fn share(
        &mut self,
        session: Option<Box<dyn KvSession + 'm>>,
        shard: usize,
        position: usize,
    ) -> Result<Box<dyn Session + 'm>> {
        sharded::share(self, session, shard, position)
    }

    /// Lets the other ranks know that rank 0 is alive: called by all ranks after each pass of rank 0.
    pub fn step(&self) -> Result<()> {
        if self.comm.world_size() > 1 {
            self.comm.broadcast(0, &[])?;
        }
        Ok(())
    }

    /// Sums up over all ranks.
    fn finish(mut self, start: Instant) -> Result<Report> {
        let mine = [self.pairs, self.report.kept_tokens as f64];
        let all = self.comm.all_gather(bytemuck::bytes_of(&mine))?;
        let mut sums = [0.0; 2];
        for part in &all {
            let part: [f64; 2] = bytemuck::try_pod_read_unaligned(part)
                .map_err(|_| Error::invalid("a rank's report", "two numbers", part.len()))?;
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        self.report.density = sums[0] / pairs(self.context.len(), 0);
        self.report.kept_tokens = sums[1] as usize;
        self.report.total = start.elapsed();
        Ok(self.report)
    }
}

/// The pairs of a query and a key that it sees, of `tokens` tokens after `past` others.
fn pairs(tokens: usize, past: usize) -> f64 {
    let (tokens, past) = (tokens as f64, past as f64);
    tokens * past + tokens * (tokens + 1.0) / 2.0
}

/// The positions from `start` on, or an error where they do not fit.
pub(super) fn positions(start: usize, len: usize) -> Result<Vec<u32>> {
    let end = start.saturating_add(len);
    u32::try_from(end).map_err(|_| Error::invalid("positions", "below 2^32", end))?;
    let mut positions = allocate("positions", len)?;
    positions.iter_mut().zip(start as u32..).for_each(|(position, value)| *position = value);
    Ok(positions)
}
