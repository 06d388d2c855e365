//! Patterns: which keys each query reads.

use std::time::Duration;

use crate::{
    AttentionOptions, AttentionShape, BlockMask, Element, Error, FlexPrefillOptions, Result, TensorView,
    VerticalSlashIndex, VerticalSlashOptions, XAttentionOptions, cpu,
};

/// How one attention call chooses the keys it reads.
///
/// [`Pattern::FlexPrefill`], [`Pattern::XAttention`] and [`Pattern::VerticalSlash`] look at `q` and `k`; the others are
/// fixed by the lengths. A fixed pattern is a rule on (query, key) pairs; it keeps every block that holds a pair the
/// rule allows.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Pattern {
    /// Every key.
    #[default]
    Dense,
    /// FlexPrefill: per head vertical-slash or query-aware blocks that cover a share `gamma`.
    FlexPrefill(FlexPrefillOptions),
    /// XAttention: blocks by anti-diagonal sums, until a share `threshold` of each row is covered.
    XAttention(XAttentionOptions),
    /// MInference's vertical-slash: single columns and diagonals by the attention of the last queries.
    VerticalSlash(VerticalSlashOptions),
    /// MInference's A-shape: initial tokens and a sliding window.
    AShape(AShapeOptions),
    /// A-shape, but the last queries read everything.
    TriShape(TriShapeOptions),
    /// StreamingLLM: a global and a local window.
    SinkAndLocal(SinkAndLocalOptions),
    /// Tokens read within their own chunk.
    BlockDiagonal(BlockDiagonalOptions),
}

/// A-shape: query `i` reads key `j` iff `j < n_init` or `i - j < n_local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AShapeOptions {
    /// Initial tokens, read by all. Default 128.
    pub n_init: usize,
    /// Tokens of the sliding window, the query's own included. Default 3968.
    pub n_local: usize,
    /// Tokens of a block. Default 128.
    pub block_size: usize,
}

impl Default for AShapeOptions {
    fn default() -> Self {
        Self { n_init: 128, n_local: 3968, block_size: 128 }
    }
}

/// Tri-shape: [`AShapeOptions`], and query blocks that hold one of the last `n_last` queries read everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriShapeOptions {
    /// Initial tokens, read by all. Default 128.
    pub n_init: usize,
    /// Tokens of the sliding window, the query's own included. Default 3968.
    pub n_local: usize,
    /// Queries at the end that read everything. Default 100.
    pub n_last: usize,
    /// Tokens of a block. Default 128.
    pub block_size: usize,
}

impl Default for TriShapeOptions {
    fn default() -> Self {
        Self { n_init: 128, n_local: 3968, n_last: 100, block_size: 128 }
    }
}

/// StreamingLLM (Xiao et al. 2023, arXiv 2309.17453): query `i` reads key `j` iff `j < global_window` or
/// `i - j < local_window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkAndLocalOptions {
    /// Initial tokens, read by all. Default 1024.
    pub global_window: usize,
    /// Tokens of the sliding window, the query's own included. Default 8192.
    pub local_window: usize,
    /// Tokens of a block. Default 128.
    pub block_size: usize,
}

impl Default for SinkAndLocalOptions {
    fn default() -> Self {
        Self { global_window: 1024, local_window: 8192, block_size: 128 }
    }
}

/// Block-diagonal: query `i` reads key `j` iff both lie in one chunk, counted from the first key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDiagonalOptions {
    /// Tokens of a chunk. Default 4096.
    pub chunk_size: usize,
    /// Tokens of a block. Default 128.
    pub block_size: usize,
}

impl Default for BlockDiagonalOptions {
    fn default() -> Self {
        Self { chunk_size: 4096, block_size: 128 }
    }
}

impl Pattern {
    /// The pattern's name, as the stems and the command line spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::FlexPrefill(_) => "flex_prefill",
            Self::XAttention(_) => "xattention",
            Self::VerticalSlash(_) => "vertical_slash",
            Self::AShape(_) => "a_shape",
            Self::TriShape(_) => "tri_shape",
            Self::SinkAndLocal(_) => "sink_and_local",
            Self::BlockDiagonal(_) => "block_diagonal",
        }
    }

    /// Whether it looks at `q` and `k` to choose.
    pub fn searches(&self) -> bool {
        matches!(self, Self::FlexPrefill(_) | Self::XAttention(_) | Self::VerticalSlash(_))
    }

    /// The side of the pattern's blocks; `None` for patterns that do not choose by blocks.
    pub fn block_size(&self) -> Option<usize> {
        match self {
            Self::Dense | Self::VerticalSlash(_) => None,
            Self::FlexPrefill(o) => Some(o.block_size),
            Self::XAttention(o) => Some(o.block_size),
            Self::AShape(o) => Some(o.block_size),
            Self::TriShape(o) => Some(o.block_size),
            Self::SinkAndLocal(o) => Some(o.block_size),
            Self::BlockDiagonal(o) => Some(o.block_size),
        }
    }
}

/// What a pattern chose for one attention call.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Selection<'a> {
    /// Everything.
    Dense,
    /// These blocks.
    Blocks(&'a BlockMask),
    /// These key tiles and columns.
    VerticalSlash(&'a VerticalSlashIndex),
}

impl Selection<'_> {
    /// The share of the visible attention that is computed: blocks for block patterns, (query, key) pairs for
    /// vertical-slash, 1 for dense.
    pub fn density(&self, causal: bool) -> f64 {
        match self {
            Self::Dense => 1.0,
            Self::Blocks(block_mask) => block_mask.density(causal),
            Self::VerticalSlash(index) => index.density(),
        }
    }
}

/// What one run of a pattern cost and kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// The share of the visible attention that was computed, as [`Selection::density`] counts it.
    pub density: f64,
    /// Time spent choosing.
    pub search: Duration,
    /// Time spent on attention.
    pub attention: Duration,
}

/// The search of one pattern for calls of fixed sizes, on this machine's processor. On a GPU it is part of
/// [`gpu::prefill::Plan`](crate::gpu::prefill::Plan).
pub struct Plan<T: Element> {
    search: Search<T>,
}

enum Search<T: Element> {
    Dense,
    Static(BlockMask),
    FlexPrefill(Box<cpu::flex_prefill::Plan<T>>),
    XAttention(cpu::antidiagonal_score::Plan<T>, cpu::block_select::Plan),
    VerticalSlash(cpu::vertical_slash::SearchPlan<T>),
}

/// A pattern with everything settled that does not depend on the device: checked against the attention's options, which
/// its search shares, and with its mask where that is fixed.
pub(crate) enum Resolved {
    Dense,
    Static(BlockMask),
    FlexPrefill(FlexPrefillOptions),
    XAttention(XAttentionOptions),
    VerticalSlash(VerticalSlashOptions),
}

impl Resolved {
    pub(crate) fn new(
        shape: &AttentionShape,
        attention: &AttentionOptions,
        pattern: &Pattern,
    ) -> Result<Self> {
        attention.check("pattern")?;
        if !attention.causal && !matches!(pattern, Pattern::Dense | Pattern::XAttention(_)) {
            return Err(Error::invalid(
                "pattern",
                "causal",
                format_args!("true for {}", pattern.name()),
                attention.causal,
            ));
        }
        let gqa_interleave = attention.gqa_interleave;
        let scale = |own: Option<f32>| own.or(attention.softmax_scale);
        Ok(match pattern {
            Pattern::Dense => Self::Dense,
            Pattern::FlexPrefill(o) => {
                let softmax_scale = scale(o.softmax_scale);
                Self::FlexPrefill(FlexPrefillOptions { softmax_scale, gqa_interleave, ..o.clone() })
            }
            Pattern::XAttention(o) => {
                let softmax_scale = scale(o.softmax_scale);
                Self::XAttention(XAttentionOptions { softmax_scale, gqa_interleave, ..o.clone() })
            }
            Pattern::VerticalSlash(o) => {
                let softmax_scale = scale(o.softmax_scale);
                Self::VerticalSlash(VerticalSlashOptions { softmax_scale, gqa_interleave, ..o.clone() })
            }
            Pattern::AShape(o) => Self::Static(BlockMask::sink_and_local(
                shape,
                o.block_size,
                o.block_size,
                o.n_init,
                o.n_local,
            )?),
            Pattern::TriShape(o) => Self::Static(BlockMask::tri_shape(
                shape,
                o.block_size,
                o.block_size,
                o.n_init,
                o.n_local,
                o.n_last,
            )?),
            Pattern::SinkAndLocal(o) => Self::Static(BlockMask::sink_and_local(
                shape,
                o.block_size,
                o.block_size,
                o.global_window,
                o.local_window,
            )?),
            Pattern::BlockDiagonal(o) => {
                Self::Static(BlockMask::block_diagonal(shape, o.block_size, o.block_size, o.chunk_size)?)
            }
        })
    }
}

impl<T: Element> Plan<T> {
    /// Plans the search for calls of `shape`. The attention's own `softmax_scale` and `gqa_interleave` hold for the search
    /// too, unless the pattern's options give a scale of their own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, and for a pattern other than [`Pattern::Dense`] and
    /// [`Pattern::XAttention`] without a causal mask.
    pub fn new(shape: &AttentionShape, attention: &AttentionOptions, pattern: &Pattern) -> Result<Self> {
        let search = match Resolved::new(shape, attention, pattern)? {
            Resolved::Dense => Search::Dense,
            Resolved::Static(block_mask) => Search::Static(block_mask),
            Resolved::FlexPrefill(options) => {
                Search::FlexPrefill(Box::new(cpu::flex_prefill::Plan::new(shape, &options)?))
            }
            Resolved::XAttention(options) => Search::XAttention(
                cpu::antidiagonal_score::Plan::new(shape, &options, attention.causal)?,
                cpu::block_select::Plan::new(shape, &options, attention.causal)?,
            ),
            Resolved::VerticalSlash(options) => {
                Search::VerticalSlash(cpu::vertical_slash::SearchPlan::new(shape, &options)?)
            }
        };
        Ok(Self { search })
    }

    /// Chooses the keys for `q` `[total_q, num_heads, head_dim]` against `k` `[total_k, num_heads_k, head_dim]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, [`Error::NotFinite`] where the search would read
    /// a NaN or an infinity.
    pub fn search(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<Selection<'_>> {
        Ok(match &mut self.search {
            Search::Dense => Selection::Dense,
            Search::Static(block_mask) => Selection::Blocks(block_mask),
            Search::FlexPrefill(plan) => Selection::Blocks(plan.search(q, k)?),
            Search::XAttention(score, select) => Selection::Blocks(select.run(score.run(q, k)?)?),
            Search::VerticalSlash(plan) => Selection::VerticalSlash(plan.search(q, k)?),
        })
    }
}
