//! The methods' parameters, under their own names and with their own defaults.

use crate::{AttentionShape, Error, Result};

/// How attention weighs and masks; every attention operation takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Bottom-right aligned causal mask: row `i` sees key `j` iff `j <= i + seqlen_k - seqlen_q`. Default true.
    pub causal: bool,
    /// Factor of the logits; `None` means `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// Query head `h` reads KV head `h % num_heads_k` instead of `h / group_size`. Default false.
    pub gqa_interleave: bool,
}

impl Default for AttentionOptions {
    fn default() -> Self {
        Self { causal: true, softmax_scale: None, gqa_interleave: false }
    }
}

impl AttentionOptions {
    /// Refuses a scale that is not finite.
    pub fn check(&self, op: &'static str) -> Result<()> {
        check_scale(op, self.softmax_scale)
    }
}

fn check_scale(op: &'static str, softmax_scale: Option<f32>) -> Result<()> {
    match softmax_scale {
        Some(s) if !s.is_finite() => Err(Error::invalid(op, "softmax_scale", "finite", s)),
        _ => Ok(()),
    }
}

fn check_block_size(op: &'static str, block_size: usize) -> Result<()> {
    if matches!(block_size, 16 | 32 | 64 | 128 | 256) {
        Ok(())
    } else {
        Err(Error::invalid(op, "block_size", "one of 16, 32, 64, 128, 256", block_size))
    }
}

/// FlexPrefill (Lai et al. 2025, arXiv 2502.20766): per head, vertical-slash or query-aware blocks that cover a share
/// `gamma` of the attention of the last block of queries.
#[derive(Debug, Clone, PartialEq)]
pub struct FlexPrefillOptions {
    /// Share of the attention to cover, in (0, 1]. 1 keeps every causal block. Default 0.9.
    pub gamma: f32,
    /// A head is query-aware when the root of the Jensen-Shannon divergence between its pooled and its true
    /// attention is below `tau`, in [0, 1]. 0: never. Default 0.1.
    pub tau: f32,
    /// The fewest tokens a head keeps by columns, and by diagonals; rounded up to blocks. Default 1024.
    pub min_budget: usize,
    /// The most tokens a head keeps by columns, and by diagonals; rounded up to blocks. Default: no limit.
    pub max_budget: Option<usize>,
    /// Tokens of a block, of queries and of keys. Default 128.
    pub block_size: usize,
    /// Factor of the logits in the search; `None` means `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// Query head `h` reads KV head `h % num_heads_k` instead of `h / group_size`. Default false.
    pub gqa_interleave: bool,
    /// Query-aware heads keep the query-aware blocks only, as the paper has it, instead of their union with a
    /// vertical-slash set of the least budget, as the published code has it. Default false.
    pub qa_only: bool,
    /// Which defects of the published code to reproduce. Default: none.
    pub compat: FlexPrefillCompat,
}

impl Default for FlexPrefillOptions {
    fn default() -> Self {
        Self {
            gamma: 0.9,
            tau: 0.1,
            min_budget: 1024,
            max_budget: None,
            block_size: 128,
            softmax_scale: None,
            gqa_interleave: false,
            qa_only: false,
            compat: FlexPrefillCompat::default(),
        }
    }
}

/// Switches that reproduce the published FlexPrefill code where it departs from what is right. All false by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlexPrefillCompat {
    /// Divide token counts by 128 whatever the block size (fixed: by the block size).
    pub count_div: bool,
    /// Keep one block diagonal per slash group (fixed: both block diagonals that its token diagonals touch).
    pub slash_cover: bool,
    /// Group slashes from column 0, shifted when the length is no multiple of the block (fixed: group by offset from
    /// the main diagonal).
    pub tail_align: bool,
    /// Pool without the causal mask of the probe and without token counts in the divergence test, and let `0 ln 0`
    /// and rounding make it NaN (fixed: masked, weighted by `ln count`, NaN-free).
    pub jsd_weighted: bool,
    /// Round scaled queries, probe logits and pooled vectors to the input type (fixed: `f32`).
    pub probe_round: bool,
}

impl FlexPrefillCompat {
    /// Everything as the published code does it.
    pub const ORIGINAL: Self =
        Self { count_div: true, slash_cover: true, tail_align: true, jsd_weighted: true, probe_round: true };
}

impl FlexPrefillOptions {
    /// Refuses values out of range, naming them.
    pub fn check(&self, op: &'static str) -> Result<()> {
        if !(self.gamma > 0.0 && self.gamma <= 1.0) {
            return Err(Error::invalid(op, "gamma", "in (0, 1]", self.gamma));
        }
        if !(0.0..=1.0).contains(&self.tau) {
            return Err(Error::invalid(op, "tau", "in [0, 1]", self.tau));
        }
        if let Some(max) = self.max_budget.filter(|&max| max < self.min_budget) {
            return Err(Error::invalid(
                op,
                "max_budget",
                format_args!("at least min_budget ({})", self.min_budget),
                max,
            ));
        }
        check_block_size(op, self.block_size)?;
        check_scale(op, self.softmax_scale)
    }
}

/// A threshold for all heads, or one for each.
#[derive(Debug, Clone, PartialEq)]
pub enum Threshold {
    /// The same for every head.
    Scalar(f32),
    /// One per query head.
    PerHead(Vec<f32>),
}

impl Threshold {
    /// The threshold of query head `h`.
    pub fn of_head(&self, h: usize) -> f32 {
        match self {
            Self::Scalar(t) => *t,
            Self::PerHead(t) => t[h],
        }
    }

    /// Refuses values outside [0, 1] and a list of the wrong length.
    pub fn check(&self, op: &'static str, num_heads: usize) -> Result<()> {
        let list = match self {
            Self::Scalar(t) => std::slice::from_ref(t),
            Self::PerHead(list) if list.len() != num_heads => {
                return Err(Error::shape(op, "threshold", [num_heads], [list.len()]));
            }
            Self::PerHead(list) => list,
        };
        match list.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            Some(t) => Err(Error::invalid(op, "threshold", "in [0, 1]", t)),
            None => Ok(()),
        }
    }
}

/// A threshold for every query head of every layer of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ThresholdTable {
    num_heads: usize,
    /// Layer by layer.
    thresholds: Vec<f32>,
}

impl ThresholdTable {
    const OP: &str = "ThresholdTable";

    /// From one list per layer, of one threshold per query head.
    ///
    /// # Errors
    /// No layers or no heads, lists of different lengths, values outside [0, 1].
    pub fn new(layers: &[Vec<f32>]) -> Result<Self> {
        let num_heads = layers.first().map_or(0, Vec::len);
        if num_heads == 0 {
            return Err(Error::invalid(Self::OP, "layers", "at least one, of at least one head", "none"));
        }
        for layer in layers {
            Threshold::PerHead(layer.clone()).check(Self::OP, num_heads)?;
        }
        Ok(Self { num_heads, thresholds: layers.concat() })
    }

    /// Layers.
    pub fn num_layers(&self) -> usize {
        self.thresholds.len() / self.num_heads
    }

    /// Query heads.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// The thresholds of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn of_layer(&self, layer: usize) -> Threshold {
        Threshold::PerHead(self.thresholds[layer * self.num_heads..][..self.num_heads].to_vec())
    }
}

/// XAttention (Xu et al. 2025, arXiv 2503.16428): blocks by the sums of every `stride`-th anti-diagonal, kept until a
/// share `threshold` of each row is covered.
#[derive(Debug, Clone, PartialEq)]
pub struct XAttentionOptions {
    /// Tokens that one anti-diagonal spans: 4, 8 or 16 (any divisor of `block_size` works). Default 8.
    pub stride: usize,
    /// Share of a row's score to cover, in [0, 1]. Default 0.9.
    pub threshold: Threshold,
    /// Tokens of a block, of queries and of keys. Default 128.
    pub block_size: usize,
    /// Extra divisor of the logits. Default 1.
    pub norm: f32,
    /// Factor of the logits in the search; `None` means `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// Query head `h` reads KV head `h % num_heads_k` instead of `h / group_size`. Default false.
    pub gqa_interleave: bool,
    /// Keep the first key block in every row (it is forced in causal mode anyway). Default false.
    pub keep_sink: bool,
    /// Keep the diagonal block in every row (it is forced in causal mode anyway). Default false.
    pub keep_recent: bool,
    /// Query rows that one pass of the published code handles; only matters to the compat switches. `None`: its rule.
    pub chunk_size: Option<usize>,
    /// Which defects of the published code to reproduce. Default: none.
    pub compat: XAttentionCompat,
}

impl Default for XAttentionOptions {
    fn default() -> Self {
        Self {
            stride: 8,
            threshold: Threshold::Scalar(0.9),
            block_size: 128,
            norm: 1.0,
            softmax_scale: None,
            gqa_interleave: false,
            keep_sink: false,
            keep_recent: false,
            chunk_size: None,
            compat: XAttentionCompat::default(),
        }
    }
}

/// Switches that reproduce the published XAttention code where it departs from what is right. All false by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XAttentionCompat {
    /// Rows of the chunk at block offset 0 keep about one block more: the published accounting lags by one there.
    pub first_chunk_quirk: bool,
    /// `keep_sink` fills query row 0 (fixed: key column 0).
    pub keep_sink_row_bug: bool,
    /// The past is computed from padded lengths (fixed: the true past).
    pub chunk_align_past: bool,
    /// A partial last group counts as full, zero padded (fixed: divided by its valid pairs).
    pub tail_group: bool,
}

impl XAttentionCompat {
    /// Everything as the published code does it.
    pub const ORIGINAL: Self =
        Self { first_chunk_quirk: true, keep_sink_row_bug: true, chunk_align_past: true, tail_group: true };
}

impl XAttentionOptions {
    /// Refuses values out of range, naming them.
    pub fn check(&self, op: &'static str, shape: &AttentionShape) -> Result<()> {
        check_block_size(op, self.block_size)?;
        if self.stride == 0 || !self.block_size.is_multiple_of(self.stride) {
            return Err(Error::invalid(
                op,
                "stride",
                format_args!("a positive divisor of block_size ({})", self.block_size),
                self.stride,
            ));
        }
        if !(self.norm > 0.0 && self.norm.is_finite()) {
            return Err(Error::invalid(op, "norm", "positive and finite", self.norm));
        }
        if let Some(chunk) = self.chunk_size.filter(|&c| c == 0 || !c.is_multiple_of(self.block_size)) {
            return Err(Error::invalid(
                op,
                "chunk_size",
                format_args!("a positive multiple of block_size ({})", self.block_size),
                chunk,
            ));
        }
        self.threshold.check(op, shape.num_heads)?;
        check_scale(op, self.softmax_scale)
    }

    /// Query rows that one pass of the published code handles where a sequence has `seqlen_k` keys.
    pub fn chunk_rows(&self, seqlen_k: usize) -> usize {
        /// More tokens than a sequence can have, in whole blocks: chunks beyond all lengths differ in nothing.
        const MOST_TOKENS: usize = isize::MAX as usize / 4 + 1;
        let rows = self.chunk_size.unwrap_or_else(|| {
            let n = seqlen_k.max(1).next_power_of_two();
            n.max(2048).min((1 << 28) / n).max(2048)
        });
        rows.min(MOST_TOKENS)
    }

    /// The tokens before a sequence's queries: `seqlen_k - seqlen_q`, or with
    /// [`chunk_align_past`](XAttentionCompat::chunk_align_past) the difference of the lengths rounded up to whole chunks.
    pub fn past(&self, seqlen_q: usize, seqlen_k: usize) -> isize {
        let chunk = if self.compat.chunk_align_past { self.chunk_rows(seqlen_k) } else { 1 };
        seqlen_k.next_multiple_of(chunk) as isize - seqlen_q.next_multiple_of(chunk) as isize
    }
}

/// Vertical-slash of MInference (Jiang et al. 2024, arXiv 2407.02490): the columns and the diagonals, token by token,
/// that weigh most for the last `last_q` queries.
#[derive(Debug, Clone, PartialEq)]
pub struct VerticalSlashOptions {
    /// Columns to keep, in tokens, at least 30. Default 1000.
    pub vertical_size: usize,
    /// Diagonals to keep, in tokens, at least 50. Default 6096.
    pub slash_size: usize,
    /// Query rows the search looks at. Default 64.
    pub last_q: usize,
    /// Columns from the first one on that are always kept. Default 30.
    pub sink: usize,
    /// Diagonals from the main one on that are always kept. Default 100.
    pub recent: usize,
    /// Factor of the logits in the search; `None` means `1 / sqrt(head_dim)`.
    pub softmax_scale: Option<f32>,
    /// Query head `h` reads KV head `h % num_heads_k` instead of `h / group_size`. Default false.
    pub gqa_interleave: bool,
}

impl Default for VerticalSlashOptions {
    fn default() -> Self {
        Self {
            vertical_size: 1000,
            slash_size: 6096,
            last_q: 64,
            sink: 30,
            recent: 100,
            softmax_scale: None,
            gqa_interleave: false,
        }
    }
}

impl VerticalSlashOptions {
    /// Refuses values out of range, naming them.
    pub fn check(&self, op: &'static str) -> Result<()> {
        for (arg, value) in [
            ("vertical_size", self.vertical_size),
            ("slash_size", self.slash_size),
            ("last_q", self.last_q),
            ("recent", self.recent),
        ] {
            if value == 0 {
                return Err(Error::invalid(op, arg, "at least 1", value));
            }
        }
        check_scale(op, self.softmax_scale)
    }
}

/// k-means clustering of token features, for summaries that keep one token per cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KMeansOptions {
    /// Clusters; as many as there are points when there are fewer points. Default 256.
    pub clusters: usize,
    /// What "near" means. Default Euclidean.
    pub metric: KMeansMetric,
    /// Most rounds of assignment and update; fewer when assignments settle. Default 100.
    pub max_iterations: usize,
    /// Seed of the k-means++ start. Default 42.
    pub seed: u64,
}

/// The distance of [`KMeansOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KMeansMetric {
    /// Euclidean distance.
    Euclidean,
    /// Points are scaled to unit length first; a cluster is represented by the point with the largest dot product with
    /// the mean, which is not scaled.
    Cosine,
}

impl Default for KMeansOptions {
    fn default() -> Self {
        Self { clusters: 256, metric: KMeansMetric::Euclidean, max_iterations: 100, seed: 42 }
    }
}

impl KMeansOptions {
    /// Refuses values out of range, naming them.
    pub fn check(&self, op: &'static str) -> Result<()> {
        for (arg, value) in [("clusters", self.clusters), ("max_iterations", self.max_iterations)] {
            if value == 0 {
                return Err(Error::invalid(op, arg, "at least 1", value));
            }
        }
        Ok(())
    }
}
