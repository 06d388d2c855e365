//! One context of a Llama model: prefill, decode, rollback.

use lacuna::{Pattern, Selection, ThresholdTable};

use super::report::{ForwardReport, LayerReport};
use crate::generate::Sampler;
use crate::{Error, Result};

/// One context of a model: the tokens so far, as keys and values.
pub trait Session: Send {
    /// Runs `tokens` after those cached and returns the logits of the rows asked for, `[rows, vocab_size]` in the order
    /// asked, and what it cost.
    ///
    /// Where an error comes back the context is as it was before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no tokens, for a token outside the vocabulary and for rows and positions that do not
    /// exist, [`Error::TooLong`] beyond the capacity or `max_position_embeddings`, [`Error::NotFinite`] where the
    /// arithmetic breaks down, [`Error::Attention`] for options of the pattern that are out of range.
    fn forward(
        &mut self,
        tokens: &[u32],
        options: &ForwardOptions,
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, ForwardReport)>;

    /// Runs one token, dense, at the position after the last one, and returns its logits.
    ///
    /// # Errors
    /// As [`Session::forward`].
    fn decode(&mut self, token: u32) -> Result<&[f32]>;

    /// Runs one token as [`Session::decode`] does, and chooses the one after it: what `sampler` says of the logits, `seen`
    /// being all tokens so far. A device chooses by itself where it can, and begins with the token it chose before the caller
    /// has seen it.
    ///
    /// # Errors
    /// As [`Session::forward`] and [`Sampler::sample`].
    fn next_token(&mut self, token: u32, sampler: &mut Sampler, seen: &[u32]) -> Result<u32> {
        sampler.sample(self.decode(token)?, seen)
    }

    /// Forgets all tokens but the first `len`, so that another continuation of the same prompt can be run.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more tokens than are cached.
    fn truncate(&mut self, len: usize) -> Result<()>;

    /// Tokens cached.
    fn len(&self) -> usize;

    /// Whether no token is cached.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens there is room for.
    fn capacity(&self) -> usize;
}

/// How to run a forward pass.
#[derive(Debug, Clone, Default)]
pub struct ForwardOptions<'a> {
    /// The attention pattern of every layer. Default dense.
    pub pattern: Pattern,
    /// Thresholds of [`Pattern::XAttention`], in the place of its own: one per layer and query head. Default none.
    pub thresholds: Option<ThresholdTable>,
    /// The position of each token. Default: on from the last cached one.
    pub position_ids: Option<&'a [u32]>,
    /// Which rows to return logits of. Default the last.
    pub logits: LogitRows<'a>,
}

impl ForwardOptions<'_> {
    /// Refuses thresholds for a model of other sizes, or for a pattern that has none.
    pub(super) fn check(&self, layers: usize, heads: usize) -> Result<()> {
        let Some(table) = &self.thresholds else { return Ok(()) };
        if !matches!(self.pattern, Pattern::XAttention(_)) {
            return Err(Error::invalid("thresholds", "given for xattention alone", self.pattern.name()));
        }
        let (expected, got) = ([layers, heads], [table.num_layers(), table.num_heads()]);
        if expected == got {
            return Ok(());
        }
        let sizes = |[layers, heads]: [usize; 2]| format!("{layers} layers of {heads} heads");
        Err(Error::invalid("thresholds", sizes(expected), sizes(got)))
    }

    /// The rows whose logits are asked for, of a pass of `tokens` tokens.
    pub(super) fn rows(&self, tokens: usize) -> Result<Vec<usize>> {
        let rows = match self.logits {
            LogitRows::Last => vec![tokens - 1],
            LogitRows::These(rows) => rows.to_vec(),
        };
        match rows.iter().find(|&&row| row >= tokens) {
            Some(row) => Err(Error::invalid("logits", format_args!("rows below {tokens} tokens"), row)),
            None => Ok(rows),
        }
    }
}

/// Rows of logits to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogitRows<'a> {
    /// The last token's.
    #[default]
    Last,
    /// These, counted within the tokens of this pass; any order.
    These(&'a [usize]),
}

/// Watches a forward pass. `()` looks away.
pub trait Observer {
    /// What the pattern chose in a layer, for all heads.
    fn selection(&mut self, layer: usize, selection: Selection<'_>) {
        let _ = (layer, selection);
    }

    /// A layer is done.
    fn layer(&mut self, layer: usize, report: &LayerReport) {
        let _ = (layer, report);
    }
}

impl Observer for () {}
