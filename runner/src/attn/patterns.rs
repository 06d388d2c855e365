//! The patterns, their names and their keys.

use std::ops::Bound::{Excluded, Included, Unbounded};

use lacuna::{
    AttentionShape, FlexPrefillCompat, FlexPrefillOptions, Pattern, Seqlens, Threshold, VerticalSlashOptions,
    XAttentionCompat, XAttentionOptions,
    pattern::{AShapeOptions, BlockDiagonalOptions, SinkAndLocalOptions, TriShapeOptions},
};

use super::ThresholdFile;
use super::entry::{Entry, Field, Key, Lengths};

/// A pattern, and what comes from a file for it.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternOptions {
    /// What the library runs.
    pub pattern: Pattern,
    /// Take the place of the pattern's threshold, layer by layer.
    pub thresholds: Option<ThresholdFile>,
}

impl From<Pattern> for PatternOptions {
    fn from(pattern: Pattern) -> Self {
        Self { pattern, thresholds: None }
    }
}

/// Accessor of one field of one pattern's options.
macro_rules! at {
    ($pattern:ident, $($field:ident).+) => {
        |options| match &mut options.pattern {
            Pattern::$pattern(options) => &mut options.$($field).+,
            _ => unreachable!("a key is only used with its own pattern"),
        }
    };
}

macro_rules! compat {
    ($pattern:ident, $compat:ident) => {
        Key {
            name: "compat",
            aliases: &[],
            doc: "all compat switches: fixed, or as the published code",
            field: Field::Compat {
                set: |options, original| match &mut options.pattern {
                    Pattern::$pattern(options) => {
                        options.compat = if original { $compat::ORIGINAL } else { $compat::default() }
                    }
                    _ => unreachable!("a key is only used with its own pattern"),
                },
            },
        }
    };
}

const fn length(
    name: &'static str,
    aliases: &'static [&'static str],
    values: Lengths,
    at: fn(&mut PatternOptions) -> &mut usize,
    doc: &'static str,
) -> Key<PatternOptions> {
    Key { name, aliases, doc, field: Field::Length { at, values } }
}

const fn switch(
    name: &'static str,
    at: fn(&mut PatternOptions) -> &mut bool,
    doc: &'static str,
) -> Key<PatternOptions> {
    Key { name, aliases: &[], doc, field: Field::Switch { at } }
}

/// Block sides that the searches take.
const SEARCH_BLOCKS: Lengths = Lengths::OneOf(&[16, 32, 64, 128, 256]);
/// Keys that exclude one another.
pub(super) const THRESHOLD: &str = "threshold";
pub(super) const THRESHOLD_TABLE: &str = "threshold_table";
const ANY: Lengths = Lengths::AtLeast(0);
const POSITIVE: Lengths = Lengths::AtLeast(1);

/// Every pattern, in the order that tables print them.
pub static PATTERNS: &[Entry<PatternOptions>] = &[
    Entry {
        name: "dense",
        aliases: &["default", "flash", "full"],
        doc: "every key",
        keys: &[],
        default: || Pattern::Dense.into(),
        check: |_| Ok(()),
    },
    Entry {
        name: "flexprefill",
        aliases: &["flex-prefill"],
        doc: "FlexPrefill: per head, vertical-slash or query-aware blocks that cover a share",
        keys: &[
            length(
                "block",
                &["block_size"],
                SEARCH_BLOCKS,
                at!(FlexPrefill, block_size),
                "tokens of a block, of queries and of keys",
            ),
            Key {
                name: "gamma",
                aliases: &[],
                doc: "share of the attention to cover; 1 keeps every block",
                field: Field::Real { at: at!(FlexPrefill, gamma), range: (Excluded(0.0), Included(1.0)) },
            },
            Key {
                name: "tau",
                aliases: &[],
                doc: "a head is query-aware below this divergence; 0: never",
                field: Field::Real { at: at!(FlexPrefill, tau), range: (Included(0.0), Included(1.0)) },
            },
            length(
                "min_budget",
                &[],
                ANY,
                at!(FlexPrefill, min_budget),
                "fewest tokens kept by columns, and by diagonals",
            ),
            Key {
                name: "max_budget",
                aliases: &[],
                doc: "most tokens kept by columns, and by diagonals",
                field: Field::OptionalLength { at: at!(FlexPrefill, max_budget), absent: "none" },
            },
            switch(
                "qa_only",
                at!(FlexPrefill, qa_only),
                "query-aware heads keep no vertical-slash set as well",
            ),
            compat!(FlexPrefill, FlexPrefillCompat),
            switch(
                "count_div",
                at!(FlexPrefill, compat.count_div),
                "compat: divide token counts by 128 always",
            ),
            switch(
                "slash_cover",
                at!(FlexPrefill, compat.slash_cover),
                "compat: one block diagonal per slash group",
            ),
            switch("tail_align", at!(FlexPrefill, compat.tail_align), "compat: group slashes from column 0"),
            switch(
                "jsd_weighted",
                at!(FlexPrefill, compat.jsd_weighted),
                "compat: divergence of unmasked pools",
            ),
            switch(
                "probe_round",
                at!(FlexPrefill, compat.probe_round),
                "compat: round the probe to the input type",
            ),
        ],
        default: || Pattern::FlexPrefill(FlexPrefillOptions::default()).into(),
        check: |options| match &options.pattern {
            Pattern::FlexPrefill(options) => Ok(options.check("flexprefill")?),
            _ => Ok(()),
        },
    },
    Entry {
        name: "xattention",
        aliases: &["xattn"],
        doc: "XAttention: blocks by anti-diagonal sums, until a share of each row is covered",
        keys: &[
            length(
                "block",
                &["block_size"],
                SEARCH_BLOCKS,
                at!(XAttention, block_size),
                "tokens of a block, of queries and of keys",
            ),
            length(
                "stride",
                &[],
                POSITIVE,
                at!(XAttention, stride),
                "tokens between anti-diagonals; divides block",
            ),
            Key {
                name: THRESHOLD,
                aliases: &[],
                doc: "share of a row's score to cover",
                field: Field::Real {
                    at: |options| match &mut options.pattern {
                        Pattern::XAttention(XAttentionOptions {
                            threshold: Threshold::Scalar(threshold),
                            ..
                        }) => threshold,
                        _ => unreachable!("a key is only used with its own pattern, and sets one threshold"),
                    },
                    range: (Included(0.0), Included(1.0)),
                },
            },
            Key {
                name: THRESHOLD_TABLE,
                aliases: &["thresholds"],
                doc: "instead of threshold, one per layer and head",
                field: Field::Thresholds { at: |options| &mut options.thresholds },
            },
            Key {
                name: "norm",
                aliases: &[],
                doc: "extra divisor of the search's logits",
                field: Field::Real { at: at!(XAttention, norm), range: (Excluded(0.0), Unbounded) },
            },
            switch("keep_sink", at!(XAttention, keep_sink), "keep the first key block in every row"),
            switch("keep_recent", at!(XAttention, keep_recent), "keep the diagonal block in every row"),
            compat!(XAttention, XAttentionCompat),
            switch(
                "first_chunk_quirk",
                at!(XAttention, compat.first_chunk_quirk),
                "compat: one block more in the first chunk",
            ),
            switch(
                "keep_sink_row_bug",
                at!(XAttention, compat.keep_sink_row_bug),
                "compat: keep_sink fills query row 0",
            ),
            switch(
                "chunk_align_past",
                at!(XAttention, compat.chunk_align_past),
                "compat: the past counts in padded lengths",
            ),
            switch(
                "tail_group",
                at!(XAttention, compat.tail_group),
                "compat: a partial last group counts as full",
            ),
            Key {
                name: "chunk_size",
                aliases: &["chunk"],
                doc: "query rows per pass of the compat switches",
                field: Field::OptionalLength { at: at!(XAttention, chunk_size), absent: "none" },
            },
        ],
        default: || Pattern::XAttention(XAttentionOptions::default()).into(),
        // The check takes a shape for the sake of per-head thresholds, which no pattern of the registry holds.
        check: |options| match &options.pattern {
            Pattern::XAttention(options) => {
                let shape = AttentionShape::new(1, 1, 1, Seqlens::single(0, 0)?)?;
                Ok(options.check("xattention", &shape)?)
            }
            _ => Ok(()),
        },
    },
    Entry {
        name: "vertical-slash",
        aliases: &[],
        doc: "MInference: the columns and diagonals that weigh most for the last queries",
        keys: &[
            length(
                "vertical",
                &["vertical_size"],
                POSITIVE,
                at!(VerticalSlash, vertical_size),
                "columns to keep; never fewer than 30",
            ),
            length(
                "slash",
                &["slash_size"],
                POSITIVE,
                at!(VerticalSlash, slash_size),
                "diagonals to keep; never fewer than 50",
            ),
            length(
                "last_q",
                &[],
                POSITIVE,
                at!(VerticalSlash, last_q),
                "query rows at the end that the search looks at",
            ),
            length("sink", &[], ANY, at!(VerticalSlash, sink), "first columns, always kept"),
            length(
                "recent",
                &[],
                POSITIVE,
                at!(VerticalSlash, recent),
                "diagonals from the main one on, always kept",
            ),
        ],
        default: || Pattern::VerticalSlash(VerticalSlashOptions::default()).into(),
        check: |options| match &options.pattern {
            Pattern::VerticalSlash(options) => Ok(options.check("vertical-slash")?),
            _ => Ok(()),
        },
    },
    Entry {
        name: "a-shape",
        aliases: &[],
        doc: "MInference: the first tokens and a sliding window",
        keys: &[
            length("init", &["n_init"], ANY, at!(AShape, n_init), "first tokens, read by all"),
            length("local", &["n_local"], ANY, at!(AShape, n_local), "tokens of the sliding window"),
            length("block", &["block_size"], POSITIVE, at!(AShape, block_size), "tokens of a block"),
        ],
        default: || Pattern::AShape(AShapeOptions::default()).into(),
        check: |_| Ok(()),
    },
    Entry {
        name: "tri-shape",
        aliases: &[],
        doc: "a-shape, but the last queries read everything",
        keys: &[
            length("init", &["n_init"], ANY, at!(TriShape, n_init), "first tokens, read by all"),
            length("local", &["n_local"], ANY, at!(TriShape, n_local), "tokens of the sliding window"),
            length(
                "last",
                &["n_last"],
                ANY,
                at!(TriShape, n_last),
                "queries at the end that read everything",
            ),
            length("block", &["block_size"], POSITIVE, at!(TriShape, block_size), "tokens of a block"),
        ],
        default: || Pattern::TriShape(TriShapeOptions::default()).into(),
        check: |_| Ok(()),
    },
    Entry {
        name: "streaming",
        aliases: &["sink-and-local", "streaming-llm"],
        doc: "StreamingLLM: attention sinks and a sliding window",
        keys: &[
            length(
                "global",
                &["global_window"],
                ANY,
                at!(SinkAndLocal, global_window),
                "first tokens, read by all",
            ),
            length(
                "local",
                &["local_window"],
                ANY,
                at!(SinkAndLocal, local_window),
                "tokens of the sliding window",
            ),
            length("block", &["block_size"], POSITIVE, at!(SinkAndLocal, block_size), "tokens of a block"),
        ],
        default: || Pattern::SinkAndLocal(SinkAndLocalOptions::default()).into(),
        check: |_| Ok(()),
    },
    Entry {
        name: "block-diagonal",
        aliases: &[],
        doc: "tokens read within their own chunk",
        keys: &[
            length("chunk", &["chunk_size"], POSITIVE, at!(BlockDiagonal, chunk_size), "tokens of a chunk"),
            length("block", &["block_size"], POSITIVE, at!(BlockDiagonal, block_size), "tokens of a block"),
        ],
        default: || Pattern::BlockDiagonal(BlockDiagonalOptions::default()).into(),
        check: |_| Ok(()),
    },
];
