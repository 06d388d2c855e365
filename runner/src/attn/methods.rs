//! The context methods, their names and their keys.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::entry::{Choice, Entry, Field, Key, Lengths};
use crate::context::{
    AnchorContent, AnchorPositions, CompressMode, CompressOptions, Method, Positions, QueryPosition,
    SequentialTopKOptions, StarOptions, StarTopKOptions, StarXMode, StarXOptions, SummaryMethod,
    SummaryOptions,
};

/// Accessor of one field of one method's options.
macro_rules! at {
    ($method:ident, $($field:ident).+) => {
        |method| match method {
            Method::$method(options) => &mut options.$($field).+,
            _ => unreachable!("a key is only used with its own method"),
        }
    };
}

/// A key that takes one of several names, each standing for a value of a field.
macro_rules! choice {
    (
        $name:literal, $aliases:expr, $doc:literal, $at:expr,
        [$($choice:literal = $value:expr, $says:literal;)+]
    ) => {
        Key {
            name: $name,
            aliases: $aliases,
            doc: $doc,
            field: Field::Choice {
                choices: &[$(Choice { name: $choice, doc: $says }),+],
                get: |method| {
                    let at: fn(&mut Method) -> &mut _ = $at;
                    match *at(method) {
                        $(value if value == $value => $choice,)+
                        _ => unreachable!("every value has a name"),
                    }
                },
                set: |method, name| {
                    let at: fn(&mut Method) -> &mut _ = $at;
                    *at(method) = match name {
                        $($choice => $value,)+
                        _ => unreachable!("names are looked up before"),
                    };
                },
            },
        }
    };
}

/// How Star and StarX cut a context: keys of the options at a path, and then others.
macro_rules! star_keys {
    ($method:ident, [$($path:ident.)*], $($more:expr,)*) => {
        &[
            optional("block", &["block_size"], "auto", at!($method, $($path.)* block_size),
                "tokens of a block; auto: as many blocks as ranks"),
            optional("anchor", &["anchor_block_size"], "auto", at!($method, $($path.)* anchor_block_size),
                "tokens of the anchor before a block; auto: a block"),
            switch("recompute_anchor", &[], at!($method, $($path.)* recompute_anchor),
                "run the anchor again with every block"),
            choice!("content", &["anchor_content"], "what stands in the anchor", at!($method, $($path.)* anchor), [
                "first" = AnchorContent::First, "";
                "previous" = AnchorContent::Previous, "";
                "none" = AnchorContent::None, "";
                "constant" = AnchorContent::Constant, "";
                "random" = AnchorContent::Random, "";
                "shuffled" = AnchorContent::Shuffled, "";
            ]),
            choice!(
                "positions", &["anchor_positions"], "where the anchor stands", at!($method, $($path.)* anchor_positions),
                [
                    "first" = AnchorPositions::First, "";
                    "before" = AnchorPositions::BeforeBlock, "";
                    "random" = AnchorPositions::Random, "";
                ]
            ),
            switch("q_causal_on_remote", &[], at!($method, $($path.)* q_causal_on_remote),
                "compat: the query misses blocks' last keys"),
            seed(at!($method, $($path.)* seed), "of random anchors and positions"),
            $($more,)*
        ]
    };
}

const fn length(
    name: &'static str,
    aliases: &'static [&'static str],
    least: usize,
    at: fn(&mut Method) -> &mut usize,
    doc: &'static str,
) -> Key<Method> {
    Key { name, aliases, doc, field: Field::Length { at, values: Lengths::AtLeast(least) } }
}

const fn optional(
    name: &'static str,
    aliases: &'static [&'static str],
    absent: &'static str,
    at: fn(&mut Method) -> &mut Option<usize>,
    doc: &'static str,
) -> Key<Method> {
    Key { name, aliases, doc, field: Field::OptionalLength { at, absent } }
}

const fn switch(
    name: &'static str,
    aliases: &'static [&'static str],
    at: fn(&mut Method) -> &mut bool,
    doc: &'static str,
) -> Key<Method> {
    Key { name, aliases, doc, field: Field::Switch { at } }
}

const fn seed(at: fn(&mut Method) -> &mut u64, doc: &'static str) -> Key<Method> {
    Key { name: "seed", aliases: &[], doc, field: Field::Seed { at } }
}

/// Every context method, in the order that tables print them.
pub static METHODS: &[Entry<Method>] = &[
    Entry {
        name: "ring",
        aliases: &["ring-attention"],
        doc: "Ring attention: exact; keys and values go round the ranks. Under dense alone",
        keys: &[],
        default: || Method::Ring,
        check: Method::check,
    },
    Entry {
        name: "star",
        aliases: &["star-attention"],
        doc: "Star Attention: blocks read an anchor and themselves, the query all, exactly",
        keys: star_keys!(Star, [],),
        default: || Method::Star(StarOptions::default()),
        check: Method::check,
    },
    Entry {
        name: "starx",
        aliases: &["star-x"],
        doc: "StarX: as star, but blocks are weighed by anti-diagonal scores as well",
        keys: star_keys!(
            StarX,
            [star.],
            choice!("mode", &[], "how the query mixes what blocks say", at!(StarX, mode), [
                "exact_lse" = StarXMode::ExactLse, "by log-sum-exp: exact, which is star";
                "compat" = StarXMode::Compat, "by scores, as published; for comparison alone";
                "biased_lse" = StarXMode::BiasedLse, "by log-sum-exp, biased or cut off by scores";
            ]),
            length("stride", &[], 1, at!(StarX, stride), "tokens between anti-diagonals"),
            choice!("heads", &["cyclic_heads"], "key heads that compat scores query heads with", at!(StarX, cyclic_heads), [
                "cyclic" = true, "";
                "grouped" = false, "";
            ]),
            Key {
                name: "bias",
                aliases: &["lambda"],
                doc: "weight of a score in biased_lse; 0: none",
                field: Field::Real { at: at!(StarX, bias), range: (Unbounded, Unbounded) },
            },
            Key {
                name: "threshold",
                aliases: &["tau"],
                doc: "share of the score that biased_lse reads; 1: all",
                field: Field::Real { at: at!(StarX, threshold), range: (Excluded(0.0), Included(1.0)) },
            },
        ),
        default: || Method::StarX(StarXOptions::default()),
        check: Method::check,
    },
    Entry {
        name: "star-topk",
        aliases: &["star-top-k"],
        doc: "DistInf 1: keeps tokens that get most attention, block after block",
        keys: &[
            length("top_k", &[], 1, at!(StarTopK, top_k), "tokens to keep of each step"),
            length(
                "num_blocks",
                &[],
                1,
                at!(StarTopK, num_blocks),
                "blocks of the context, where block is auto",
            ),
            optional(
                "block",
                &["block_size"],
                "auto",
                at!(StarTopK, block_size),
                "tokens of a block; auto: by num_blocks",
            ),
        ],
        default: || Method::StarTopK(StarTopKOptions::default()),
        check: Method::check,
    },
    Entry {
        name: "seq-topk",
        aliases: &["sequential-topk", "sequential-top-k"],
        doc: "DistInf 2: keeps the tokens of each block that the query attends to most",
        keys: &[
            length("block", &["block_size"], 1, at!(SequentialTopK, block_size), "tokens of a block"),
            length("top_k", &[], 1, at!(SequentialTopK, top_k), "tokens to keep of each block"),
            Key {
                name: "compat",
                aliases: &[],
                doc: "the next two keys: fixed, or as the published code",
                field: Field::Compat {
                    set: |method, original| match method {
                        Method::SequentialTopK(options) => {
                            (options.positions, options.query_position) = match original {
                                true => (Positions::Contiguous, QueryPosition::CacheLen),
                                false => (Positions::Original, QueryPosition::ContextLen),
                            }
                        }
                        _ => unreachable!("a key is only used with its own method"),
                    },
                },
            },
            choice!("positions", &[], "while tokens are chosen", at!(SequentialTopK, positions), [
                "original" = Positions::Original, "";
                "contiguous" = Positions::Contiguous, "";
            ]),
            choice!("query_pos", &["query_position"], "the query stands after it", at!(SequentialTopK, query_position), [
                "context" = QueryPosition::ContextLen, "";
                "cache" = QueryPosition::CacheLen, "";
            ]),
        ],
        default: || Method::SequentialTopK(SequentialTopKOptions::default()),
        check: Method::check,
    },
    Entry {
        name: "compress",
        aliases: &["bmrt"],
        doc: "DistInf's BMRT: thins the cache out after each block by what the query reads",
        keys: &[
            length("block", &["block_size"], 1, at!(Compress, block_size), "tokens of a block"),
            length("budget", &[], 1, at!(Compress, budget), "tokens to keep; see mode"),
            length(
                "divisor",
                &["protection_divisor"],
                2,
                at!(Compress, protection_divisor),
                "budget / divisor first and last tokens always stay",
            ),
            choice!("mode", &["compression_mode"], "what the budget is for", at!(Compress, mode), [
                "accumulate" = CompressMode::Accumulate, "each block: the cache grows";
                "recursive" = CompressMode::Recursive, "the whole cache, which does not outgrow it";
            ]),
        ],
        default: || Method::Compress(CompressOptions::default()),
        check: Method::check,
    },
    Entry {
        name: "summary",
        aliases: &[],
        doc: "DistInf's summaries: blocks read summaries of those before, the query all",
        keys: &[
            choice!("method", &["summary_method"], "how the tokens of a summary are chosen", at!(Summary, method), [
                "kmeans" = SummaryMethod::KMeans, "nearest to centres of hidden states";
                "topk" = SummaryMethod::TopK, "those that get most attention";
            ]),
            length("block", &["block_size"], 1, at!(Summary, block_size), "tokens of a block"),
            optional(
                "k",
                &["k_summary_size"],
                "auto",
                at!(Summary, k),
                "tokens of a summary; auto: by prune_percent, or 128",
            ),
            Key {
                name: "prune_percent",
                aliases: &["pruning_percent"],
                doc: "tokens of a block that kmeans leaves out",
                field: Field::Real {
                    at: at!(Summary, pruning_percent),
                    range: (Included(0.0), Included(100.0)),
                },
            },
            switch(
                "cosine",
                &["use_cosine_similarity", "cosine_similarity"],
                at!(Summary, use_cosine_similarity),
                "kmeans compares angles",
            ),
            length(
                "layers",
                &["num_layers_for_clustering"],
                1,
                at!(Summary, num_layers_for_clustering),
                "last hidden states that kmeans looks at; 1: one",
            ),
            length(
                "chunk",
                &["chunk_size", "summary_chunk_size"],
                1,
                at!(Summary, chunk_size),
                "tokens that topk looks at together",
            ),
            choice!("positions", &[], "of summaries and blocks", at!(Summary, positions), [
                "original" = Positions::Original, "";
                "contiguous" = Positions::Contiguous, "";
            ]),
            seed(at!(Summary, seed), "of kmeans"),
        ],
        default: || Method::Summary(SummaryOptions::default()),
        check: Method::check,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_the_names_they_give_themselves() {
        for entry in METHODS {
            assert_eq!((entry.default)().name(), entry.name);
        }
    }
}
