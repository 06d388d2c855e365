//! A session whose keys and values can be cut, kept and sent: what context methods are made of.

use std::ops::Range;

use lacuna::Pattern;

use super::report::ForwardReport;
use super::session::{ForwardOptions, Observer, Session};
use crate::comm::Communicator;
use crate::{Error, Result};

/// A [`Session`] whose keys and values lie in this process, row by row: one row for each cached token, in every layer.
pub trait KvSession: Session {
    /// As [`Session::forward`], with more to say about what is read, and more to come back.
    ///
    /// # Errors
    /// As [`Session::forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows that do not exist;
    /// [`Error::Rank`](crate::Error::Rank) where another rank fails.
    fn pass(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput>;

    /// Keeps these rows, ascending, and forgets the others.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows that do not exist or do not ascend.
    fn keep(&mut self, rows: &[usize]) -> Result<()>;

    /// Appends copies of cached rows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows that do not exist,
    /// [`Error::TooLong`](crate::Error::TooLong) beyond the capacity.
    fn duplicate(&mut self, rows: Range<usize>) -> Result<()>;

    /// Copies rows out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows that do not exist.
    fn read_kv(&mut self, rows: Range<usize>) -> Result<KvRows>;

    /// Appends rows that [`KvSession::read_kv`] copied out of a session of the same model.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows of another model,
    /// [`Error::TooLong`](crate::Error::TooLong) beyond the capacity.
    fn append_kv(&mut self, rows: &KvRows) -> Result<()>;

    /// The keys of cached rows in a layer, rotated, `[rows, heads_k, head_dim]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows or a layer that do not exist.
    fn read_k(&mut self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>>;

    /// The position of each cached token.
    fn position_ids(&self) -> &[u32];

    /// Says where the token after those cached stands; else it is one after the last. It holds until the next token is cached,
    /// and again when the session is truncated to this length.
    fn continue_at(&mut self, position: u32);

    /// Bytes of the keys and values of one token, all layers.
    fn kv_bytes_per_token(&self) -> usize;

    /// Whether decoding is recorded once and replayed, so that it is much faster than a pass of one token. Default false.
    fn records_decoding(&self) -> bool {
        false
    }
}

/// How to run a pass of a [`KvSession`].
#[derive(Default)]
pub struct PassOptions<'a> {
    /// As for [`Session::forward`]. A pass that asks for no logits' rows leaves out of the last layer what nobody sees.
    pub forward: ForwardOptions<'a>,
    /// What the tokens of the pass read. Default all that is cached.
    pub reads: Reads<'a>,
    /// Which column mass to sum over all layers. Default none.
    pub column_mass: Option<ColumnMass>,
    /// How many hidden states to return, from the last layer back; at most as many as there are. Default 0.
    pub hidden_states: usize,
}

/// What the tokens of a pass read, besides one another.
pub enum Reads<'a> {
    /// The cached rows from `from` on, under the pattern, causally.
    Cached {
        /// The first row that is read.
        from: usize,
    },
    /// A context that lies in shards, some of them here; the pattern has to be dense. Tokens of the pass read one another only
    /// where `joins_last`; other sessions do not keep them: there only the number of rows stays as it was.
    Shards(Shards<'a>),
    /// All that the ranks before this one have in this very pass, whose keys and values go round the ring, and their own, causally;
    /// the pattern has to be dense.
    Ring(&'a dyn Communicator),
}

impl Default for Reads<'_> {
    fn default() -> Self {
        Self::Cached { from: 0 }
    }
}

impl PassOptions<'_> {
    /// The first of the hidden states to return: 0 are the embeddings, `layers` is the last one.
    pub(super) fn first_hidden_state(&self, layers: usize) -> usize {
        (layers + 1).saturating_sub(self.hidden_states)
    }
}

impl Reads<'_> {
    /// Whether the tokens of the pass are cached.
    pub(super) fn caches(&self) -> bool {
        match self {
            Self::Shards(shards) => shards.joins_last,
            Self::Cached { .. } | Self::Ring(_) => true,
        }
    }

    /// Refuses rows that do not exist, and what does not go together, for a pass after `past` cached tokens.
    pub(super) fn check(
        &self,
        pattern: &Pattern,
        tokens: usize,
        past: usize,
        column_mass: Option<&ColumnMass>,
    ) -> Result<()> {
        match self {
            Self::Cached { from } if *from > past => {
                return Err(Error::invalid("from", format_args!("at most {past} cached tokens"), from));
            }
            Self::Cached { .. } => (),
            Self::Ring(_) | Self::Shards(_) if *pattern != Pattern::Dense => {
                return Err(Error::invalid("pattern", "dense over ranks and shards", pattern.name()));
            }
            Self::Ring(_) if past > 0 => {
                return Err(Error::invalid("the session", "empty before a ring's pass", past));
            }
            Self::Ring(_) => (),
            Self::Shards(shards) => {
                let ends = shards.rows.iter().scan(0, |end, rows| {
                    let follows = rows.start >= *end && rows.start < rows.end;
                    *end = rows.end;
                    Some(follows)
                });
                let inside = shards.rows.last().is_none_or(|rows| rows.end <= past);
                if !inside
                    || ends.into_iter().any(|follows| !follows)
                    || shards.joins_last && shards.rows.is_empty()
                {
                    let expected =
                        format_args!("runs of {past} cached tokens, one after the other").to_string();
                    return Err(Error::invalid("shards", expected, format_args!("{:?}", shards.rows)));
                }
            }
        }
        let Some(ColumnMass { rows, columns }) = column_mass else { return Ok(()) };
        let Self::Cached { from } = self else {
            return Err(Error::invalid("column_mass", "none over ranks and shards", "some"));
        };
        if rows.start > rows.end || rows.end > tokens {
            return Err(Error::invalid(
                "column_mass",
                format_args!("rows of {tokens} tokens"),
                format_args!("{rows:?}"),
            ));
        }
        if columns.start < *from || columns.start > columns.end || columns.end > past + tokens {
            let expected = format_args!("columns of rows {from} to {}", past + tokens).to_string();
            return Err(Error::invalid("column_mass", expected, format_args!("{columns:?}")));
        }
        Ok(())
    }
}

/// A context in shards, as one rank sees it.
pub struct Shards<'a> {
    /// The cached rows of each shard that lies here: ascending, and one after the other.
    pub rows: &'a [Range<usize>],
    /// Whether the tokens of the pass, and all rows after the last shard's first one, belong to the last shard here: they are
    /// cached, and read causally. Elsewhere all shards are read in full and nothing is cached.
    pub joins_last: bool,
    /// Compat: shards that the pass's tokens do not join are read causally too, bottom-right aligned, so that the first of the
    /// tokens miss the last keys.
    pub causal: bool,
    /// Makes one result of the shards' results.
    pub mixer: &'a mut dyn ShardMixer,
}

impl Shards<'_> {
    /// The rows of each shard in a pass of `tokens` tokens after `past` cached ones.
    pub(super) fn rows_in_pass(&self, past: usize, tokens: usize) -> Vec<Range<usize>> {
        let mut rows = self.rows.to_vec();
        if let Some(last) = rows.last_mut().filter(|_| self.joins_last) {
            last.end = past + tokens;
        }
        rows
    }

    /// What the mixer chooses in a layer, one answer for each of `shards`.
    pub(super) fn choose(
        &mut self,
        layer: usize,
        shards: usize,
        inputs: &mut dyn LayerInputs,
    ) -> Result<Vec<bool>> {
        let chosen = self.mixer.choose(layer, shards, inputs)?;
        if chosen.len() != shards {
            return Err(Error::invalid("the mixer's choice", format_args!("{shards} answers"), chosen.len()));
        }
        Ok(chosen)
    }
}

/// Makes one attention result of those of shards, on all ranks at once, layer by layer.
pub trait ShardMixer {
    /// Which of the shards here are to be read in a layer, one answer for each. All, unless overridden.
    ///
    /// # Errors
    /// What the communication says.
    fn choose(&mut self, layer: usize, shards: usize, inputs: &mut dyn LayerInputs) -> Result<Vec<bool>> {
        let _ = (layer, inputs);
        Ok(vec![true; shards])
    }

    /// Writes the mixed result to `out`, `[tokens, heads, head_dim]`. `parts` are those of the shards here, `None` for one that was
    /// not read.
    ///
    /// # Errors
    /// What the communication says.
    fn mix(&mut self, layer: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()>;
}

/// What a layer's attention is about to read.
pub trait LayerInputs {
    /// The queries, rotated, `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// What the device says.
    fn q(&mut self) -> Result<Vec<f32>>;

    /// The keys of cached rows, or of the pass's tokens behind them, rotated, `[rows, heads_k, head_dim]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for rows that do not exist; what the device says.
    fn k(&mut self, rows: Range<usize>) -> Result<Vec<f32>>;
}

/// Refuses rows beyond the first `end`, for [`LayerInputs::k`].
pub(super) fn check_inputs(rows: &Range<usize>, end: usize) -> Result<()> {
    if rows.start > rows.end || rows.end > end {
        return Err(Error::invalid("rows", format_args!("rows of {end} tokens"), format_args!("{rows:?}")));
    }
    Ok(())
}

/// Refuses a layer that does not exist, for [`KvSession::read_k`].
pub(super) fn check_layer(layer: usize, layers: usize) -> Result<()> {
    if layer >= layers {
        return Err(Error::invalid("layer", format_args!("below {layers} layers"), layer));
    }
    Ok(())
}

/// Attention over some of the keys.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialAttention {
    /// `[tokens, heads, head_dim]`
    pub out: Vec<f32>,
    /// `[heads, tokens]`, natural logarithm; `-inf` where no key is seen.
    pub softmax_lse: Vec<f32>,
}

/// The attention that columns receive from rows, over all heads, in units of a row's attention to all that it read. Under a pattern
/// that is less than all: keys that the pattern left out get what they would weigh beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMass {
    /// Tokens of the pass.
    pub rows: Range<usize>,
    /// Cached rows, those of the pass among them: the pass's first token is the session's length before it.
    pub columns: Range<usize>,
}

impl KvRows {
    /// As a message to another rank: the number of tokens, their positions, their keys and values.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tokens = self.position_ids.len() as u64;
        [&tokens.to_le_bytes(), bytemuck::cast_slice(&self.position_ids), &self.bytes[..]].concat()
    }

    /// What [`KvRows::to_bytes`] made.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes of something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let parts = bytes.split_first_chunk().and_then(|(tokens, rest)| {
            let tokens = usize::try_from(u64::from_le_bytes(*tokens)).ok()?;
            rest.split_at_checked(tokens.checked_mul(size_of::<u32>())?)
        });
        let Some((position_ids, bytes)) = parts else {
            return Err(Error::invalid(
                "keys and values",
                "a message of them",
                format_args!("{} bytes", bytes.len()),
            ));
        };
        Ok(Self {
            position_ids: bytemuck::allocation::pod_collect_to_vec(position_ids),
            bytes: bytes.to_vec(),
        })
    }

    /// Refuses bytes that are not those of so many tokens of `bytes_per_token` each.
    pub(super) fn check(&self, bytes_per_token: usize) -> Result<()> {
        let expected = self.position_ids.len() * bytes_per_token;
        if self.bytes.len() == expected {
            return Ok(());
        }
        Err(Error::invalid(
            "keys and values",
            format_args!("{expected} bytes, of this model"),
            self.bytes.len(),
        ))
    }
}

/// What a pass gives.
#[derive(Debug, Clone)]
pub struct PassOutput {
    /// As from [`Session::forward`].
    pub logits: Vec<f32>,
    /// What it cost.
    pub report: ForwardReport,
    /// The column mass asked for, summed over all layers; empty where none was.
    pub column_mass: Vec<f32>,
    /// The hidden states asked for, `[tokens, hidden]` each, the last layer's last: the residual stream after a layer, after the
    /// last one normed, as `transformers` counts them. At most as many as there are layers, and one (the embeddings).
    pub hidden_states: Vec<Vec<f32>>,
}

/// Keys and values of some tokens, out of their session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvRows {
    /// The position of each token.
    pub position_ids: Vec<u32>,
    /// Layer by layer the keys, then the values, `[heads_k, tokens, head_dim]` in the model's type.
    pub bytes: Vec<u8>,
}
