//! What context methods are called upon to do.

/// How a prompt is cut, and which of its keys and values are kept for the answer.
///
/// A prompt is a *context*, long, and a *query*, short, which comes after it. All but [`Method::Full`] run the context in parts
/// and the query, densely, over what was kept of it. They combine with the patterns of [`lacuna::Pattern`], which decide what
/// each part's attention reads.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Method {
    /// The whole prompt in one pass, all of it kept.
    #[default]
    Full,
    /// Ring attention (Liu, Zaharia, Abbeel 2023): as `Full`, the context dealt out over the ranks, whose keys and values go round.
    Ring,
    /// Star Attention (Acharya, Jia, Ginsburg 2024).
    Star(StarOptions),
    /// StarX: Star Attention that weighs shards by anti-diagonal scores.
    StarX(StarXOptions),
    /// DistInf, first version: tokens that receive most attention, block by block, then Star over them.
    StarTopK(StarTopKOptions),
    /// DistInf, second version: tokens of each block to which the query attends most.
    SequentialTopK(SequentialTopKOptions),
    /// DistInf's recursive compression engine: the cache itself is thinned out after every block.
    Compress(CompressOptions),
    /// DistInf's block summaries, by k-means or by received attention.
    Summary(SummaryOptions),
}

/// Options of [`Method::Star`]; Star Attention, sections 2 and 4.
#[derive(Debug, Clone, PartialEq)]
pub struct StarOptions {
    /// Tokens of a context block; the last one may be shorter. `None`: the context in as many blocks as there are ranks.
    /// Default `None`.
    pub block_size: Option<usize>,
    /// Tokens of the anchor in front of each block but the first, at most a block. `None`: a block. Default `None`.
    pub anchor_block_size: Option<usize>,
    /// Run the anchor again with every block, as the published code does, rather than once for all; the numbers are the same up
    /// to rounding under dense attention. Default false.
    pub recompute_anchor: bool,
    /// What stands in the anchor. Default [`AnchorContent::First`]; the others are the paper's ablation.
    pub anchor: AnchorContent,
    /// Where the anchor stands. Default [`AnchorPositions::First`]; the others are the paper's ablation.
    pub anchor_positions: AnchorPositions,
    /// Compat: the query's tokens lose the last keys of each shard but the last to a causal mask meant for their own, as in the
    /// published code. Default false.
    pub q_causal_on_remote: bool,
    /// Seed of random anchors and positions. Default 42.
    pub seed: u64,
}

impl Default for StarOptions {
    fn default() -> Self {
        Self {
            block_size: None,
            anchor_block_size: None,
            recompute_anchor: false,
            anchor: AnchorContent::First,
            anchor_positions: AnchorPositions::First,
            q_causal_on_remote: false,
            seed: 42,
        }
    }
}

/// What stands in an anchor; Star Attention, section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnchorContent {
    /// The first tokens of the context.
    #[default]
    First,
    /// The last tokens of the block before.
    Previous,
    /// Nothing: blocks read themselves alone.
    None,
    /// The first token of the context, again and again.
    Constant,
    /// Random tokens of the vocabulary.
    Random,
    /// The first tokens of the context, shuffled.
    Shuffled,
}

/// Where an anchor stands; Star Attention, section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnchorPositions {
    /// At the first positions.
    #[default]
    First,
    /// Right before its block.
    BeforeBlock,
    /// At a run of positions, drawn at random, that ends before its block.
    Random,
}

/// Options of [`Method::StarX`]. A shard is a block of [`StarOptions::block_size`] tokens: with as many ranks as blocks this is
/// the published program's rank.
#[derive(Debug, Clone, PartialEq)]
pub struct StarXOptions {
    /// How the context is cut, as for Star.
    pub star: StarOptions,
    /// How the shards' results are mixed. Default [`StarXMode::ExactLse`].
    pub mode: StarXMode,
    /// Tokens between anti-diagonals. Default 16.
    pub stride: usize,
    /// Which key heads [`StarXMode::Compat`] scores a query head with: cyclically (`h % heads_k`), as the published code, or by
    /// group (`h / (heads / heads_k)`), as attention does. Default true.
    pub cyclic_heads: bool,
    /// `lambda` of [`StarXMode::BiasedLse`], added to a shard's log-sum-exp for each unit of its score. Default 0: Star.
    pub bias: f32,
    /// `tau` of [`StarXMode::BiasedLse`]: shards are read, the heaviest first, until they cover this share of the score. Default 1: all.
    pub threshold: f32,
}

impl Default for StarXOptions {
    fn default() -> Self {
        Self {
            star: StarOptions::default(),
            mode: StarXMode::ExactLse,
            stride: 16,
            cyclic_heads: true,
            bias: 0.0,
            threshold: 1.0,
        }
    }
}

/// How StarX mixes the results of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StarXMode {
    /// By their log-sum-exp: exact over what is cached, which is Star.
    #[default]
    ExactLse,
    /// By the softmax of raw anti-diagonal sums over each shard's first keys, as the published code; for comparison alone.
    Compat,
    /// By their log-sum-exp, biased by an anti-diagonal score, or only those that weigh.
    BiasedLse,
}

/// Options of [`Method::StarTopK`].
///
/// The published program cannot be run; this is the method that it describes. A token's score is the attention that it receives
/// from all tokens of a step, over all layers and heads, under the causal mask.
#[derive(Debug, Clone, PartialEq)]
pub struct StarTopKOptions {
    /// Tokens to choose at each step. Those that are kept already are chosen from too, and count. Default 256.
    pub top_k: usize,
    /// Blocks of the context, where `block_size` is `None`. Default 4.
    pub num_blocks: usize,
    /// Tokens of a block. Default `None`.
    pub block_size: Option<usize>,
}

impl Default for StarTopKOptions {
    fn default() -> Self {
        Self { top_k: 256, num_blocks: 4, block_size: None }
    }
}

/// Which positions tokens have while they are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// Their own, with gaps where tokens are left out.
    #[default]
    Original,
    /// One after the other, from 0.
    Contiguous,
}

/// Where the query stands when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryPosition {
    /// After the whole context.
    #[default]
    ContextLen,
    /// After as many positions as tokens were kept.
    CacheLen,
}

/// Options of [`Method::SequentialTopK`]. A token's score is the attention that it receives from the query, over all layers and
/// heads, summed in `f32` at least, where the published program sums in `bf16`. That program is `positions: Contiguous, query_position: CacheLen`.
#[derive(Debug, Clone, PartialEq)]
pub struct SequentialTopKOptions {
    /// Tokens to keep of each block. Default 256.
    pub top_k: usize,
    /// Tokens of a block. Default 2048.
    pub block_size: usize,
    /// Positions while tokens are chosen. Default [`Positions::Original`].
    pub positions: Positions,
    /// Where the answer starts. Default [`QueryPosition::ContextLen`].
    pub query_position: QueryPosition,
}

impl Default for SequentialTopKOptions {
    fn default() -> Self {
        Self {
            top_k: 256,
            block_size: 2048,
            positions: Positions::Original,
            query_position: QueryPosition::ContextLen,
        }
    }
}

/// Options of [`Method::Compress`].
///
/// What is neither among the first tokens nor among a block's last competes for the rest of the budget, by the attention that it
/// receives from the query, over all layers and heads. Of the original this has the exact scores; its selectors by
/// locality-sensitive hashing are not here.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressOptions {
    /// Tokens of a block. Default 4096.
    pub block_size: usize,
    /// Tokens to keep: of each block in [`CompressMode::Accumulate`], in all in [`CompressMode::Recursive`]. Default 4096.
    pub budget: usize,
    /// First tokens, and last tokens of each block, that are kept whatever their score: `budget / protection_divisor` each.
    /// At least 2. Default 4.
    pub protection_divisor: usize,
    /// Default [`CompressMode::Accumulate`].
    pub mode: CompressMode,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self { block_size: 4096, budget: 4096, protection_divisor: 4, mode: CompressMode::Accumulate }
    }
}

/// What a block competes with for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressMode {
    /// With itself and the tail of the block before: the cache grows by the budget with every block.
    #[default]
    Accumulate,
    /// With all that is cached: the cache does not outgrow the budget.
    Recursive,
}

/// Options of [`Method::Summary`].
///
/// Each block is run behind the summaries of those before it. All of the context stays cached: summaries save attention while it is
/// run, and no memory afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryOptions {
    /// How tokens are chosen. Default [`SummaryMethod::KMeans`].
    pub method: SummaryMethod,
    /// Tokens of a block. Default 4096.
    pub block_size: usize,
    /// Tokens of a block's summary; for k-means the number of clusters. `None`: what `pruning_percent` leaves. Default `None`
    /// for k-means; top-k takes 128 then.
    pub k: Option<usize>,
    /// Tokens of a block that k-means leaves out, in percent. Default 75.
    pub pruning_percent: f32,
    /// Compare features by their angle. Default true.
    pub use_cosine_similarity: bool,
    /// Hidden states that make up the features: the last so many layers, each weighing twice the one before it. A model of fewer
    /// layers gives all it has, the embeddings among them. Default 4; 1 is the last hidden state alone.
    pub num_layers_for_clustering: usize,
    /// Tokens of the chunks in which top-k looks at attention. Default 512.
    pub chunk_size: usize,
    /// Positions of summaries and blocks. Default [`Positions::Original`]; the published program is contiguous.
    pub positions: Positions,
    /// Seed of k-means. Default 42.
    pub seed: u64,
}

impl Default for SummaryOptions {
    fn default() -> Self {
        Self {
            method: SummaryMethod::KMeans,
            block_size: 4096,
            k: None,
            pruning_percent: 75.0,
            use_cosine_similarity: true,
            num_layers_for_clustering: 4,
            chunk_size: 512,
            positions: Positions::Original,
            seed: 42,
        }
    }
}

/// How a block's summary is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SummaryMethod {
    /// The tokens nearest to the centres of clusters of hidden states.
    #[default]
    KMeans,
    /// The tokens that receive most attention.
    TopK,
}
