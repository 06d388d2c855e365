//! Star Attention, StarX and the ring: against dense attention, and on any number of ranks.

mod common;

use std::time::Duration;

use common::context::{Answer, answer, answer_on, answers, by, load, with};
use common::{random_checkpoint, random_tokens, relative_error};
use lacuna::pattern::BlockDiagonalOptions;
use lacuna::{FlexPrefillOptions, Pattern, Threshold, XAttentionOptions};
use lacuna_runner::Result;
use lacuna_runner::comm::{Alone, Communicator, threads};
use lacuna_runner::context::{
    AnchorContent, AnchorPositions, Method, Options, StarOptions, StarXMode, StarXOptions, prefill,
};
use lacuna_runner::model::{ForwardOptions, LogitRows, Model};

/// Of `f32` arithmetic in another order.
const TOLERANCE: f32 = 2e-5;

fn star(block: usize) -> StarOptions {
    StarOptions { block_size: Some(block), ..Default::default() }
}

fn starx(block: usize, mode: StarXMode) -> StarXOptions {
    StarXOptions { star: star(block), mode, ..Default::default() }
}

/// A model, a context and a query.
struct Case {
    model: Box<dyn Model>,
    context: Vec<u32>,
    query: Vec<u32>,
}

impl Case {
    fn new(context: usize, query: usize) -> Self {
        let dir = random_checkpoint(3);
        let tokens = random_tokens(context + query, 5);
        let (context, query) = tokens.split_at(context);
        Self { model: load(dir.path()), context: context.to_vec(), query: query.to_vec() }
    }

    fn answer(&self, options: &Options) -> Answer {
        answer(&*self.model, &self.context, &self.query, options, 4)
    }

    fn star(&self, options: StarOptions) -> Answer {
        self.answer(&by(Method::Star(options)))
    }

    fn starx(&self, options: StarXOptions) -> Answer {
        self.answer(&by(Method::StarX(options)))
    }

    fn dense(&self) -> Answer {
        self.answer(&by(Method::Full))
    }

    fn on_ranks(&self, ranks: usize, options: &Options) -> Answer {
        let mut answers = answers(&*self.model, ranks, &self.context, &self.query, options, 4);
        let first = answers.remove(0);
        for other in answers {
            assert_eq!((&other.logits, &other.tokens), (&first.logits, &first.tokens), "ranks disagree");
            assert_eq!(other.report.density, first.report.density);
            assert_eq!(other.report.kept_tokens, first.report.kept_tokens);
        }
        first
    }
}

fn assert_same(got: &Answer, want: &Answer, what: impl std::fmt::Display) {
    let error = relative_error(&got.logits, &want.logits);
    assert!(error < TOLERANCE, "{what}: {error}");
    assert_eq!(got.tokens, want.tokens, "{what}");
}

fn assert_differ(got: &Answer, other: &Answer, what: impl std::fmt::Display) {
    let error = relative_error(&got.logits, &other.logits);
    assert!(error > 100.0 * TOLERANCE, "{what}: {error}");
}

#[test]
fn one_block_and_two_blocks_with_a_full_anchor_are_dense() {
    for (context, block) in [(90, 90), (90, 200), (1, 1), (90, 45), (91, 60), (90, 89), (2, 1)] {
        let case = Case::new(context, 7);
        let dense = case.dense();
        for recompute_anchor in [false, true] {
            let got = case.star(StarOptions { recompute_anchor, ..star(block) });
            assert_same(&got, &dense, format!("{context} tokens in blocks of {block}"));
            assert_eq!(got.report.kept_tokens, context);
        }
        assert_same(&case.star(StarOptions::default()), &dense, "as many blocks as ranks");
    }
}

#[test]
fn three_blocks_are_not_dense() {
    let case = Case::new(90, 7);
    assert_differ(&case.star(star(30)), &case.dense(), "three blocks");
}

#[test]
fn blocks_without_anchors_are_block_diagonal_attention() {
    let case = Case::new(100, 7);
    for (block, block_size) in [(32, 16), (50, 10), (99, 33)] {
        let got = case.star(StarOptions { anchor: AnchorContent::None, ..star(block) });
        let pattern = Pattern::BlockDiagonal(BlockDiagonalOptions { chunk_size: block, block_size });
        let mut session = case.model.session(107).unwrap();
        let options = ForwardOptions { pattern, logits: LogitRows::These(&[]), ..Default::default() };
        session.forward(&case.context, &options, &mut ()).unwrap();
        let rows: Vec<usize> = (0..7).collect();
        let options = ForwardOptions { logits: LogitRows::These(&rows), ..Default::default() };
        let (want, _) = session.forward(&case.query, &options, &mut ()).unwrap();
        assert!(relative_error(&got.logits, &want) < TOLERANCE);
    }
}

#[test]
fn an_anchor_run_once_is_an_anchor_run_with_every_block() {
    for (context, block, anchor) in
        [(100, 30, None), (100, 30, Some(7)), (61, 20, Some(20)), (50, 9, Some(1))]
    {
        let case = Case::new(context, 5);
        for content in
            [AnchorContent::First, AnchorContent::Constant, AnchorContent::Random, AnchorContent::Shuffled]
        {
            let options = StarOptions { anchor_block_size: anchor, anchor: content, ..star(block) };
            let once = case.star(options.clone());
            let again = case.star(StarOptions { recompute_anchor: true, ..options });
            assert_same(&once, &again, format!("{content:?} anchor of {anchor:?}"));
            assert!(once.report.run_tokens < again.report.run_tokens);
            assert!(once.report.density < again.report.density);
        }
    }
}

#[test]
fn what_stands_in_the_anchor_and_where_makes_a_difference() {
    let case = Case::new(100, 5);
    let usual = case.star(star(25));
    let mut seen = vec![usual.logits.clone()];
    let contents = [
        AnchorContent::Previous,
        AnchorContent::None,
        AnchorContent::Constant,
        AnchorContent::Random,
        AnchorContent::Shuffled,
    ];
    let positions = [AnchorPositions::BeforeBlock, AnchorPositions::Random];
    let variants = contents
        .map(|anchor| StarOptions { anchor, ..star(25) })
        .into_iter()
        .chain(positions.map(|anchor_positions| StarOptions { anchor_positions, ..star(25) }))
        .chain([StarOptions { anchor_block_size: Some(5), ..star(25) }]);
    for options in variants {
        let got = case.star(options.clone());
        assert_eq!(got.report.kept_tokens, 100);
        for other in &seen {
            assert!(relative_error(&got.logits, other) > 100.0 * TOLERANCE, "{options:?}");
        }
        seen.push(got.logits);
        // Random ones come from the seed.
        assert_eq!(case.star(options).logits, seen[seen.len() - 1]);
    }
}

#[test]
fn blocks_behind_anchors_are_what_their_own_sessions_say() {
    let case = Case::new(70, 5);
    let context = &case.context[..];
    type AnchorOf<'a> = &'a dyn Fn(usize) -> (Vec<u32>, usize);
    let variants: [(StarOptions, AnchorOf); 4] = [
        (star(20), &|_| (context[..20].to_vec(), 0)),
        (StarOptions { anchor_block_size: Some(6), ..star(20) }, &|_| (context[..6].to_vec(), 0)),
        (StarOptions { anchor: AnchorContent::Previous, ..star(20) }, &|start| {
            (context[start - 20..start].to_vec(), 0)
        }),
        (
            StarOptions {
                anchor: AnchorContent::Previous,
                anchor_positions: AnchorPositions::BeforeBlock,
                anchor_block_size: Some(7),
                ..star(20)
            },
            &|start| (context[start - 7..start].to_vec(), start - 7),
        ),
    ];
    for (options, anchor) in variants {
        let mut whole = case.model.session(75).unwrap();
        for start in (0..70).step_by(20) {
            let end = (start + 20).min(70);
            let (anchor, at) = if start == 0 { (Vec::new(), 0) } else { anchor(start) };
            let tokens = [&anchor, &context[start..end]].concat();
            let at: Vec<u32> = (at as u32..).take(anchor.len()).chain(start as u32..end as u32).collect();
            let mut session = case.model.session(tokens.len()).unwrap();
            let forward = ForwardOptions { position_ids: Some(&at), ..Default::default() };
            session.forward(&tokens, &forward, &mut ()).unwrap();
            whole.append_kv(&session.read_kv(anchor.len()..tokens.len()).unwrap()).unwrap();
        }
        let rows = [0, 1, 2, 3, 4];
        let forward = ForwardOptions { logits: LogitRows::These(&rows), ..Default::default() };
        let (want, _) = whole.forward(&case.query, &forward, &mut ()).unwrap();
        let error = relative_error(&case.star(options.clone()).logits, &want);
        assert!(error < TOLERANCE, "{options:?}: {error}");
    }
}

#[test]
fn any_number_of_ranks_gives_the_same_answer() {
    for (context, block) in [(100, 25), (97, 10), (30, 30), (61, 31)] {
        let case = Case::new(context, 6);
        for options in [star(block), StarOptions { anchor_block_size: Some(block.min(4)), ..star(block) }] {
            let options = by(Method::Star(options));
            let alone = case.answer(&options);
            for ranks in [2, 3, 4, 5] {
                let got = case.on_ranks(ranks, &options);
                // Shard by shard the same sums: the same bits.
                assert_eq!((&got.logits, &got.tokens), (&alone.logits, &alone.tokens), "{ranks} ranks");
                assert_eq!(got.report.kept_tokens, context);
            }
        }
    }
}

#[test]
fn ranks_hold_their_share_of_the_context() {
    let case = Case::new(96, 6);
    let options = by(Method::Star(star(8)));
    let alone = case.answer(&options).report.kv_bytes;
    for ranks in [2, 3, 4] {
        let parts = answers(&*case.model, ranks, &case.context, &case.query, &options, 1);
        assert!(parts.iter().all(|part| part.report.kv_bytes == alone / ranks as u64));
    }
}

#[test]
fn a_ring_is_dense_on_any_number_of_ranks() {
    for context in [100, 97, 3, 1] {
        let case = Case::new(context, 6);
        let dense = case.dense();
        assert_same(&case.answer(&by(Method::Ring)), &dense, "alone");
        for ranks in [2, 3, 4] {
            let got = case.on_ranks(ranks, &by(Method::Ring));
            assert_same(&got, &dense, format!("{context} tokens on {ranks} ranks"));
            assert!((got.report.density - 1.0).abs() < 1e-9, "{}", got.report.density);
        }
    }
}

#[test]
fn patterns_run_inside_the_blocks() {
    let case = Case::new(300, 6);
    let plain = case.star(star(100));
    let all = [
        Pattern::FlexPrefill(FlexPrefillOptions { gamma: 1.0, block_size: 16, ..Default::default() }),
        Pattern::XAttention(XAttentionOptions {
            threshold: Threshold::Scalar(1.0),
            block_size: 16,
            ..Default::default()
        }),
    ];
    for pattern in all {
        let name = pattern.name();
        assert_same(&case.answer(&with(Method::Star(star(100)), pattern)), &plain, name);
    }
    let some = Pattern::BlockDiagonal(BlockDiagonalOptions { chunk_size: 50, block_size: 10 });
    let options = with(Method::Star(star(100)), some);
    let got = case.answer(&options);
    assert_differ(&got, &plain, "block-diagonal");
    assert!(got.report.density < plain.report.density);
    for ranks in [2, 3] {
        assert_eq!(case.on_ranks(ranks, &options).logits, got.logits);
    }
}

#[test]
fn starx_is_star_where_it_is_exact() {
    let case = Case::new(120, 40);
    let exact = case.starx(starx(30, StarXMode::ExactLse));
    assert_eq!(exact.logits, case.star(star(30)).logits);
    assert_eq!(case.starx(starx(30, StarXMode::BiasedLse)).logits, exact.logits);
    // A hair of bias, and a threshold that all shards are needed for, go the long way.
    let hair = case.starx(StarXOptions { bias: 1e-9, ..starx(30, StarXMode::BiasedLse) });
    assert_same(&hair, &exact, "a hair of bias");
    let nearly_all = case.starx(StarXOptions { threshold: 0.999_999, ..starx(30, StarXMode::BiasedLse) });
    assert_same(&nearly_all, &exact, "nearly all");
}

#[test]
fn starx_biases_and_prunes() {
    for query in [3, 40] {
        let case = Case::new(120, query);
        let exact = case.starx(starx(20, StarXMode::ExactLse));
        let biased = case.starx(StarXOptions { bias: 1.0, ..starx(20, StarXMode::BiasedLse) });
        assert_differ(&biased, &exact, "biased");
        let pruned = case.starx(StarXOptions { threshold: 0.3, ..starx(20, StarXMode::BiasedLse) });
        assert_differ(&pruned, &exact, "pruned");
        // All but the heaviest shard and the last one: nothing is left of four in six.
        let one = case.starx(StarXOptions { threshold: 1e-6, ..starx(20, StarXMode::BiasedLse) });
        assert_differ(&one, &pruned, "one shard");
        for options in [
            StarXOptions { bias: 1.0, ..starx(20, StarXMode::BiasedLse) },
            StarXOptions { threshold: 0.3, ..starx(20, StarXMode::BiasedLse) },
            starx(20, StarXMode::Compat),
            StarXOptions { cyclic_heads: false, ..starx(20, StarXMode::Compat) },
        ] {
            let alone = case.starx(options.clone());
            for ranks in [2, 3, 4] {
                let got = case.on_ranks(ranks, &by(Method::StarX(options.clone())));
                assert_eq!((got.logits, got.tokens), (alone.logits.clone(), alone.tokens.clone()));
            }
        }
    }
}

#[test]
fn compat_starx_gives_short_queries_the_plain_mean_of_the_shards() {
    // Up to half a stride of query tokens no anti-diagonal has two ends: weights do not depend on the heads' map.
    let case = Case::new(120, 8);
    let cyclic = case.starx(starx(30, StarXMode::Compat));
    let grouped = case.starx(StarXOptions { cyclic_heads: false, ..starx(30, StarXMode::Compat) });
    assert_eq!(cyclic.logits, grouped.logits);
    assert_differ(&cyclic, &case.star(star(30)), "the mean");
    // One token more, and they do.
    let case = Case::new(120, 9);
    let cyclic = case.starx(starx(30, StarXMode::Compat));
    let grouped = case.starx(StarXOptions { cyclic_heads: false, ..starx(30, StarXMode::Compat) });
    assert_ne!(cyclic.logits, grouped.logits);
    // A single shard has all the weight.
    assert_same(&case.starx(starx(120, StarXMode::Compat)), &case.dense(), "one shard");
}

#[test]
fn the_causal_compat_costs_all_but_the_last_query_token_keys_of_other_shards() {
    let case = Case::new(90, 6);
    let fixed = case.star(star(30));
    let options = StarOptions { q_causal_on_remote: true, ..star(30) };
    let compat = case.star(options.clone());
    let vocab_size = case.model.config().vocab_size;
    let first = |answer: &Answer| answer.logits[..vocab_size].to_vec();
    assert!(relative_error(&first(&compat), &first(&fixed)) > 100.0 * TOLERANCE);
    assert_eq!(case.on_ranks(3, &by(Method::Star(options.clone()))).logits, compat.logits);
    // One token of query loses nothing.
    let case = Case::new(90, 1);
    assert_same(&case.star(options), &case.star(star(30)), "one token");
}

#[test]
fn an_empty_context_is_a_plain_prompt() {
    let case = Case::new(0, 12);
    let dense = case.dense();
    for method in [Method::Star(star(4)), Method::Ring, Method::StarX(starx(4, StarXMode::Compat))] {
        assert_eq!(case.answer(&by(method)).logits, dense.logits);
    }
}

#[test]
fn bad_options_are_refused_by_a_sentence() {
    let case = Case::new(20, 2);
    let refused = |method: Method, pattern: Pattern, query: &[u32]| {
        let options = with(method, pattern);
        answer_on(&*case.model, &Alone, &case.context, query, &options, 1).unwrap_err().to_string()
    };
    let query = &case.query[..];
    for (method, says) in [
        (Method::Star(star(0)), "block_size must be at least 1, got 0"),
        (
            Method::Star(StarOptions { anchor_block_size: Some(9), ..star(8) }),
            "anchor_block_size must be at most a block (8), got 9",
        ),
        (Method::StarX(StarXOptions { stride: 0, ..Default::default() }), "stride must be at least 1, got 0"),
        (
            Method::StarX(StarXOptions { bias: f32::NAN, ..Default::default() }),
            "bias must be finite, got NaN",
        ),
        (
            Method::StarX(StarXOptions { threshold: 0.0, ..Default::default() }),
            "threshold must be in (0, 1], got 0",
        ),
    ] {
        assert_eq!(refused(method, Pattern::Dense, query), says);
    }
    assert_eq!(
        refused(Method::Star(star(8)), Pattern::Dense, &[]),
        "query must be at least 1 token, got none"
    );
    let flex = Pattern::FlexPrefill(Default::default());
    assert_eq!(
        refused(Method::Ring, flex, query),
        "pattern must be dense over ranks and shards, got flex_prefill"
    );
}

#[test]
fn what_follows_the_context_can_be_taken_back() {
    let case = Case::new(60, 8);
    let options = by(Method::StarX(starx(20, StarXMode::Compat)));
    let mut session =
        prefill(&*case.model, &Alone, &case.context, &case.query, &options, &mut ()).unwrap().session;
    let forward = ForwardOptions::default();
    let (first, _) = session.forward(&case.query, &forward, &mut ()).unwrap();
    assert_eq!((session.len(), session.capacity()), (68, 68));
    assert!(session.decode(1).unwrap_err().to_string().contains("the session's capacity is 68"));
    session.truncate(60).unwrap();
    let (again, _) = session.forward(&case.query[..4], &forward, &mut ()).unwrap();
    assert_ne!(first, again);
    let (again, _) = session.forward(&case.query[4..], &forward, &mut ()).unwrap();
    assert_eq!(again.len(), first.len());
    session.truncate(67).unwrap();
    session.decode(case.query[7]).unwrap();
    assert_eq!(
        session.truncate(59).unwrap_err().to_string(),
        "len must be from 60 tokens of context to 68, got 59"
    );
    assert!(session.truncate(69).is_err());
}

#[test]
fn a_second_turn_stands_behind_the_first_on_any_number_of_ranks() {
    let case = Case::new(60, 5);
    let options = Options { max_new_tokens: 10, ..by(Method::Star(star(20))) };
    let turn = random_tokens(6, 9);
    let talk = |comm: &dyn Communicator| -> Result<(Vec<f32>, Vec<f32>, usize)> {
        let mut session = prefill(&*case.model, comm, &case.context, &case.query, &options, &mut ())?.session;
        session.forward(&case.query, &ForwardOptions::default(), &mut ())?;
        let decoded = session.decode(7)?.to_vec();
        let (logits, _) = session.forward(&turn, &ForwardOptions::default(), &mut ())?;
        Ok((decoded, logits, session.len()))
    };
    let (decoded, logits, len) = talk(&Alone).unwrap();
    assert_eq!(len, 60 + 5 + 1 + 6);
    // As one longer query.
    let query = [&case.query[..], &[7], &turn].concat();
    let whole = answer(&*case.model, &case.context, &query, &by(Method::Star(star(20))), 0);
    let last = &whole.logits[whole.logits.len() - logits.len()..];
    assert!(relative_error(&logits, last) < TOLERANCE);
    for ranks in [2, 3, 4] {
        for (got_decoded, got, got_len) in threads::run(ranks, Duration::from_secs(60), talk).unwrap() {
            assert!(relative_error(&got_decoded, &decoded) < TOLERANCE);
            assert!(relative_error(&got, &logits) < TOLERANCE);
            assert_eq!(got_len, len);
        }
    }
}
