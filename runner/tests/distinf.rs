//! DistInf's methods: against dense attention, and against the same methods in plain `f64` loops.

mod common;
mod eager;
mod watched;

use common::context::{Answer, answer, answer_on, answers, by, load, with};
use common::{config, random_checkpoint, random_tokens, relative_error, tensors, write_checkpoint};
use eager::{Eager, Kv, methods};
use lacuna::cpu::k_means::k_means;
use lacuna::{DType, FlexPrefillOptions, KMeansMetric, KMeansOptions, Pattern, TensorView};
use lacuna_runner::Error;
use lacuna_runner::comm::Alone;
use lacuna_runner::context::{
    CompressMode, CompressOptions, Method, Options, Positions, QueryPosition, SequentialTopKOptions,
    StarTopKOptions, SummaryMethod, SummaryOptions,
};
use lacuna_runner::model::{ForwardOptions, LoadOptions, LogitRows, Model, PassOptions};
use watched::{Log, Watched};

const SEED: u64 = 3;
/// Of `f32` arithmetic, relative.
const TOLERANCE: f32 = 1e-4;
/// Tokens decoded after the query: the last of them is not run.
const DECODED: usize = 4;

/// A model, a context and a query.
struct Case {
    model: Box<dyn Model>,
    context: Vec<u32>,
    query: Vec<u32>,
}

impl Case {
    fn new(context: usize, query: usize) -> Self {
        let tokens = random_tokens(context + query, 5);
        let (context, query) = tokens.split_at(context);
        let model = load(random_checkpoint(SEED).path());
        Self { model, context: context.to_vec(), query: query.to_vec() }
    }

    fn answer(&self, method: Method) -> Answer {
        answer(&*self.model, &self.context, &self.query, &by(method), DECODED)
    }

    /// The answer, and what the sessions were asked to do.
    fn watched(&self, method: Method) -> (Answer, Vec<Log>) {
        let model = Watched::new(&*self.model);
        let answer = answer(&model, &self.context, &self.query, &by(method), DECODED);
        let logs = model.logs().clone();
        (answer, logs)
    }

    /// Holds a method against what it should have cached, and where the query should then stand; every session has room for what
    /// it needs and no more. Returns what it was.
    fn check(&self, method: Method, want: &Kv, position: usize) -> Answer {
        let (got, logs) = self.watched(method.clone());
        let kept = want.position_ids.len();
        let bytes_per_token = self.model.session(1).unwrap().kv_bytes_per_token();
        assert_eq!(got.report.kept_tokens, kept, "{method:?}");
        assert_eq!(got.report.kv_bytes, (kept * bytes_per_token) as u64, "{method:?}");
        let passes: usize = logs.iter().map(|log| log.passes.len()).sum();
        assert_eq!(got.report.passes + DECODED, passes, "{method:?}: the query is a pass too");

        let last = logs.last().unwrap();
        let after = (position..position + self.query.len() + DECODED - 1).map(|p| p as u32);
        let position_ids: Vec<u32> = want.position_ids.iter().copied().chain(after).collect();
        assert_eq!(last.position_ids, position_ids, "{method:?}");
        for log in &logs {
            // There is room for the last token that is decoded, which nobody runs.
            let spare = usize::from(log.most == position_ids.len() && log == last);
            assert!(log.most + spare <= log.capacity, "{method:?}");
            if !matches!(method, Method::StarTopK(_)) {
                assert_eq!(log.most + spare, log.capacity, "{method:?}");
            }
        }

        let query_positions: Vec<u32> = (position as u32..).take(self.query.len()).collect();
        let logits: Vec<f32> = oracle()
            .pass(want, &self.query, &query_positions)
            .logits
            .concat()
            .into_iter()
            .map(|x| x as f32)
            .collect();
        let error = relative_error(&got.logits, &logits);
        assert!(error < TOLERANCE, "{method:?}: {error}");
        got
    }
}

fn oracle() -> Eager {
    Eager::new(&config(), tensors(&config(), SEED))
}

fn differ(a: &Answer, b: &Answer) -> bool {
    relative_error(&a.logits, &b.logits) > 100.0 * TOLERANCE
}

fn sequential(block_size: usize, top_k: usize) -> SequentialTopKOptions {
    SequentialTopKOptions { block_size, top_k, ..Default::default() }
}

/// The program as published.
fn published(block_size: usize, top_k: usize) -> SequentialTopKOptions {
    SequentialTopKOptions {
        positions: Positions::Contiguous,
        query_position: QueryPosition::CacheLen,
        ..sequential(block_size, top_k)
    }
}

fn star_top_k(block_size: usize, top_k: usize) -> StarTopKOptions {
    StarTopKOptions { block_size: Some(block_size), top_k, ..Default::default() }
}

fn compress(block_size: usize, budget: usize, divisor: usize, mode: CompressMode) -> CompressOptions {
    CompressOptions { block_size, budget, protection_divisor: divisor, mode }
}

fn clusters(block_size: usize, k: usize) -> SummaryOptions {
    SummaryOptions { block_size, k: Some(k), ..Default::default() }
}

fn attended(block_size: usize, k: usize) -> SummaryOptions {
    SummaryOptions { method: SummaryMethod::TopK, chunk_size: 7, ..clusters(block_size, k) }
}

const MODES: [CompressMode; 2] = [CompressMode::Accumulate, CompressMode::Recursive];
const POSITIONS: [Positions; 2] = [Positions::Original, Positions::Contiguous];

/// Each method, set to keep, or to show to every block, all of `context` tokens.
///
/// None of them is dense attention bit for bit: tokens are the same at the same positions and read the same ones before them, but
/// in passes that begin elsewhere, so that the kernels sum in another order. Only one block, run once, gives the same bits.
fn keeping_everything(context: usize, block: usize) -> Vec<Method> {
    let mut methods = vec![
        // What is kept stands at its own position from its last pass on, under either option; the query follows the last token
        // by either count.
        Method::SequentialTopK(sequential(block, block)),
        Method::SequentialTopK(published(block, block)),
        Method::SequentialTopK(sequential(block, usize::MAX)),
        // Anchors use up the number too: it takes as many as the context has, not as a block.
        Method::StarTopK(star_top_k(block, context)),
        Method::StarTopK(StarTopKOptions { block_size: None, num_blocks: 3, top_k: context }),
    ];
    for mode in MODES {
        // All are protected; or next to none, and there is room for all.
        methods.push(Method::Compress(compress(block, 2 * context, 2, mode)));
        methods.push(Method::Compress(compress(block, 2 * context + 2, 2 * context + 2, mode)));
    }
    for positions in POSITIONS {
        // Every block is its own summary.
        methods.push(Method::Summary(SummaryOptions { positions, ..clusters(block, block) }));
        methods.push(Method::Summary(SummaryOptions { positions, ..attended(block, usize::MAX) }));
        methods.push(Method::Summary(SummaryOptions {
            positions,
            k: None,
            pruning_percent: 0.0,
            ..clusters(block, 1)
        }));
    }
    methods
}

#[test]
fn where_everything_is_kept_the_answer_is_dense_attentions() {
    for (context, block) in [(40, 10), (45, 11), (30, 30), (30, usize::MAX), (5, 1), (1, 1), (1, 4096)] {
        let case = Case::new(context, 7);
        let dense = case.answer(Method::Full);
        for method in keeping_everything(context, block) {
            let got = case.answer(method.clone());
            let error = relative_error(&got.logits, &dense.logits);
            assert!(error < TOLERANCE, "{method:?}: {error}");
            assert_eq!(got.tokens, dense.tokens, "{method:?}");
            assert_eq!(got.report.kept_tokens, context, "{method:?}");
        }
    }
}

#[test]
fn sequential_top_k_keeps_what_the_query_attends_to() {
    for (context, block, top_k) in [(60, 16, 5), (48, 16, 1), (33, 10, 4), (20, 100, 3)] {
        let case = Case::new(context, 6);
        for positions in POSITIONS {
            for query_position in [QueryPosition::ContextLen, QueryPosition::CacheLen] {
                let options = SequentialTopKOptions { positions, query_position, ..sequential(block, top_k) };
                let want = methods::sequential_top_k(&oracle(), &case.context, &case.query, &options);
                let position = match query_position {
                    QueryPosition::ContextLen => context,
                    QueryPosition::CacheLen => want.position_ids.len(),
                };
                let got = case.check(Method::SequentialTopK(options), &want, position);
                let blocks = context.div_ceil(block);
                assert_eq!(got.report.passes, blocks + 1);
                // What was chosen of a block is run once more, or twice where it stands elsewhere in the end.
                let (kept, last) = (want.position_ids.len(), top_k.min(context - (blocks - 1) * block));
                let again = if positions == Positions::Original { 0 } else { kept - last };
                assert_eq!(got.report.run_tokens, context + blocks * 6 + kept + again);
            }
        }
    }
}

#[test]
fn positions_make_a_difference_once_tokens_are_left_out() {
    let case = Case::new(60, 6);
    let mut seen: Vec<Answer> = Vec::new();
    for positions in POSITIONS {
        for query_position in [QueryPosition::ContextLen, QueryPosition::CacheLen] {
            let options = SequentialTopKOptions { positions, query_position, ..sequential(16, 4) };
            let got = case.answer(Method::SequentialTopK(options));
            assert!(seen.iter().all(|other| differ(other, &got)), "{positions:?}, {query_position:?}");
            seen.push(got);
        }
    }
    let summaries = POSITIONS
        .map(|positions| case.answer(Method::Summary(SummaryOptions { positions, ..clusters(16, 4) })));
    assert!(differ(&summaries[0], &summaries[1]));
}

#[test]
fn star_top_k_keeps_the_most_attended_tokens_of_each_step() {
    for (context, top_k, options) in [
        (60, 12, star_top_k(16, 12)),
        (60, 40, star_top_k(16, 40)),
        (33, 4, star_top_k(10, 4)),
        (20, 3, star_top_k(100, 3)),
        (50, 9, StarTopKOptions { top_k: 9, ..Default::default() }),
        (3, 2, StarTopKOptions { top_k: 2, num_blocks: 10, block_size: None }),
    ] {
        let case = Case::new(context, 6);
        let want = methods::star_top_k(&oracle(), &case.context, &options);
        let got = case.check(Method::StarTopK(options.clone()), &want, context);
        let block = options.block_size.unwrap_or(context.div_ceil(options.num_blocks));
        assert_eq!(got.report.passes, context.div_ceil(block));
        // Some anchor is among the chosen again and leaves its place empty, or this tests nothing.
        let blocks = (0..context).step_by(block).map(|start| block.min(context - start));
        let most: usize = blocks.map(|block| block.min(top_k)).sum();
        assert!(context <= block || got.report.kept_tokens < most, "{options:?}");
    }
}

#[test]
fn compress_keeps_what_is_protected_and_what_the_query_attends_to() {
    for mode in MODES {
        for (context, block, budget, divisor) in [
            (60, 16, 12, 4),
            (61, 13, 12, 4),
            (40, 8, 30, 2),
            (40, 8, 2, 2),
            (40, 8, 3, 4),
            (30, 4, 20, 3),
            (20, 100, 8, 4),
            (20, 1, 8, 4),
        ] {
            let case = Case::new(context, 6);
            let options = compress(block, budget, divisor, mode);
            let want = methods::compress(&oracle(), &case.context, &case.query, &options);
            let got = case.check(Method::Compress(options.clone()), &want, context);
            let blocks = context.div_ceil(block);
            assert_eq!((got.report.passes, got.report.run_tokens), (blocks, context + blocks * 6));
            if mode == CompressMode::Recursive {
                assert!(got.report.kept_tokens <= budget, "{options:?}");
            }
        }
    }
}

#[test]
fn summaries_by_attention_stand_before_every_block() {
    for (context, block, k) in [(60, 16, 5), (33, 10, 3), (20, 100, 3)] {
        let case = Case::new(context, 6);
        for positions in POSITIONS {
            let options = SummaryOptions { positions, ..attended(block, k) };
            let most_attended = |block| methods::most_attended(&oracle(), &case.context, block, &options, k);
            let want = methods::summary(&oracle(), &case.context, &options, most_attended);
            assert_eq!(want.position_ids.len(), context);
            let got = case.check(Method::Summary(options.clone()), &want, context);
            let blocks = context.div_ceil(block);
            let chunks = (blocks - 1) * block.div_ceil(options.chunk_size);
            assert_eq!(got.report.passes, chunks + blocks);
            // What stands for a block is run twice more but for the last block, for which nothing does.
            assert_eq!(got.report.run_tokens, (blocks - 1) * (block + k) + context);
        }
    }
}

/// The tokens nearest to the centres of clusters of a block, from hidden states that a pass gives.
fn representatives(case: &Case, block: std::ops::Range<usize>, options: &SummaryOptions) -> Vec<usize> {
    let mut session = case.model.session(block.len()).unwrap();
    let (layers, hidden) = (options.num_layers_for_clustering, case.model.config().hidden_size);
    // In their own places: two members of a cluster are as near to its centre as each other, and rounding decides.
    let position_ids: Vec<u32> = block.clone().map(|position| position as u32).collect();
    let forward = ForwardOptions { position_ids: Some(&position_ids), ..Default::default() };
    let pass = PassOptions { forward, hidden_states: layers, ..Default::default() };
    let tokens = &case.context[block.clone()];
    let states = session.pass(tokens, pass, &mut ()).unwrap().hidden_states;
    // Two layers and the embeddings are all there is.
    let want = oracle().pass(&Kv::default(), tokens, &position_ids).hidden_states;
    assert_eq!(states.len(), layers.min(want.len()));
    for (got, want) in states.iter().rev().zip(want.iter().rev()) {
        let want: Vec<f32> = want.concat().into_iter().map(|x| x as f32).collect();
        assert!(relative_error(got, &want) < TOLERANCE);
    }
    let sum = ((1 << states.len()) - 1) as f32;
    let weights = (0..states.len()).map(|i| (1 << i) as f32 / sum);
    let feature = |i: usize| -> f32 { states.iter().zip(weights.clone()).map(|(s, w)| w * s[i]).sum() };
    let features: Vec<f32> = (0..block.len() * hidden).map(feature).collect();
    let metric = match options.use_cosine_similarity {
        true => KMeansMetric::Cosine,
        false => KMeansMetric::Euclidean,
    };
    let pruned = block.len() as f64 * (1.0 - options.pruning_percent as f64 / 100.0);
    let clusters = options.k.unwrap_or((pruned as usize).max(1));
    let k_means_options = KMeansOptions { clusters, metric, seed: options.seed, ..Default::default() };
    let points = TensorView::thd(&features, block.len(), 1, hidden).unwrap();
    let found = k_means(&points, &k_means_options).unwrap().representatives;
    found.into_iter().map(|i| block.start + i as usize).collect()
}

#[test]
fn summaries_by_clusters_are_the_tokens_nearest_to_the_centres() {
    let case = Case::new(90, 6);
    let usual = SummaryOptions { block_size: 32, ..Default::default() };
    let mut seen: Vec<Answer> = Vec::new();
    for options in [
        usual.clone(),
        SummaryOptions { pruning_percent: 50.0, ..usual.clone() },
        SummaryOptions { pruning_percent: 100.0, ..usual.clone() },
        SummaryOptions { k: Some(3), ..usual.clone() },
        SummaryOptions { seed: 7, ..usual.clone() },
        SummaryOptions { use_cosine_similarity: false, ..usual.clone() },
        SummaryOptions { num_layers_for_clustering: 1, ..usual.clone() },
        SummaryOptions { num_layers_for_clustering: 2, ..usual.clone() },
    ] {
        let want = methods::summary(&oracle(), &case.context, &options, |block| {
            representatives(&case, block, &options)
        });
        let got = case.check(Method::Summary(options.clone()), &want, 90);
        assert_eq!(got.report.passes, 2 + 3);
        assert!(seen.iter().all(|other| differ(other, &got)), "{options:?}");
        seen.push(got);
    }
}

#[test]
fn features_that_are_not_finite_are_refused() {
    let mut weights = tensors(&config(), SEED);
    // Beyond f16 once a normed state is multiplied by it.
    weights.get_mut("model.norm.weight").unwrap().1.fill(6e4);
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &weights, DType::F16);
    let options = LoadOptions { dtype: Some(DType::F16), ..Default::default() };
    let model = lacuna_runner::model::load(dir.path(), &options, &mut |_| ()).unwrap();
    let tokens = random_tokens(20, 5);
    let options = by(Method::Summary(clusters(8, 2)));
    let error = answer_on(&*model, &Alone, &tokens, &[1], &options, 1).unwrap_err();
    let sentence = "the features of tokens are not finite at token";
    assert!(error.to_string().starts_with(sentence), "{error}");
    assert!(matches!(error, Error::NotFinite { .. }));
}

fn one_of_each() -> Vec<Method> {
    vec![
        Method::SequentialTopK(sequential(16, 5)),
        Method::SequentialTopK(published(16, 5)),
        Method::StarTopK(star_top_k(16, 12)),
        Method::Compress(compress(16, 12, 4, CompressMode::Accumulate)),
        Method::Compress(compress(16, 12, 4, CompressMode::Recursive)),
        Method::Summary(clusters(16, 4)),
        Method::Summary(attended(16, 4)),
    ]
}

#[test]
fn any_number_of_ranks_gives_the_same_answer() {
    for (context, query) in [(90, 6), (1, 1)] {
        let case = Case::new(context, query);
        for method in one_of_each() {
            let alone = case.answer(method.clone());
            let mut shared: Option<Answer> = None;
            for ranks in [2, 3, 5, 20] {
                let all =
                    answers(&*case.model, ranks, &case.context, &case.query, &by(method.clone()), DECODED);
                // Shard by shard the same sums: the same bits.
                let first = shared.get_or_insert_with(|| all[0].clone());
                for got in &all {
                    assert_eq!((&got.logits, &got.tokens), (&first.logits, &first.tokens), "{method:?}");
                    assert_eq!(got.report.kept_tokens, alone.report.kept_tokens, "{method:?}");
                    assert_eq!(got.report.density, alone.report.density, "{method:?}");
                }
                let bytes: u64 = all.iter().map(|answer| answer.report.kv_bytes).sum();
                assert_eq!(bytes, alone.report.kv_bytes, "{method:?}");
                assert!(all[1..].iter().all(|answer| answer.report.passes == 0), "rank 0 runs everything");
            }
            let shared = shared.unwrap();
            let error = relative_error(&shared.logits, &alone.logits);
            assert!(error < TOLERANCE, "{method:?}: {error}");
            assert_eq!(shared.tokens, alone.tokens, "{method:?}");
        }
    }
}

#[test]
fn a_pattern_thins_out_the_passes() {
    let case = Case::new(2000, 40);
    let pattern =
        Pattern::FlexPrefill(FlexPrefillOptions { gamma: 0.5, min_budget: 128, ..Default::default() });
    for method in [
        Method::SequentialTopK(sequential(1000, 100)),
        Method::StarTopK(star_top_k(1000, 300)),
        Method::Compress(compress(1000, 400, 4, CompressMode::Recursive)),
        Method::Summary(clusters(1000, 100)),
        Method::Summary(SummaryOptions { chunk_size: 512, ..attended(1000, 100) }),
    ] {
        let dense = case.answer(method.clone());
        let options = with(method.clone(), pattern.clone());
        let sparse = answer(&*case.model, &case.context, &case.query, &options, DECODED);
        let (dense, sparse) = (dense.report, sparse.report);
        assert!(sparse.density < 0.9 * dense.density, "{method:?}: {} of {}", sparse.density, dense.density);
        assert!(sparse.density < 1.0, "{method:?}: {}", sparse.density);
        assert_eq!((sparse.passes, sparse.run_tokens), (dense.passes, dense.run_tokens), "{method:?}");
    }
}

#[test]
fn the_same_question_can_be_asked_again() {
    let case = Case::new(60, 6);
    for method in one_of_each() {
        let mut prefilled = lacuna_runner::context::prefill(
            &*case.model,
            &Alone,
            &case.context,
            &case.query,
            &Options { max_new_tokens: 2, ..by(method.clone()) },
            &mut (),
        )
        .unwrap();
        let session = &mut prefilled.session;
        let kept = session.len();
        let mut ask = || {
            let options = ForwardOptions { logits: LogitRows::Last, ..Default::default() };
            let (logits, _) = session.forward(&case.query, &options, &mut ()).unwrap();
            let next = session.decode(7).unwrap().to_vec();
            session.truncate(kept).unwrap();
            (logits, next)
        };
        assert_eq!(ask(), ask(), "{method:?}");
    }
}

#[test]
fn bad_options_are_refused_by_sentence() {
    let case = Case::new(20, 3);
    for (method, sentence) in [
        (Method::SequentialTopK(sequential(16, 0)), "top_k must be at least 1, got 0"),
        (Method::SequentialTopK(sequential(0, 1)), "block_size must be at least 1, got 0"),
        (Method::StarTopK(star_top_k(0, 1)), "block_size must be at least 1, got 0"),
        (Method::StarTopK(star_top_k(4, 0)), "top_k must be at least 1, got 0"),
        (
            Method::StarTopK(StarTopKOptions { num_blocks: 0, ..Default::default() }),
            "num_blocks must be at least 1, got 0",
        ),
        (
            Method::Compress(compress(4, 8, 1, CompressMode::Accumulate)),
            "protection_divisor must be at least 2, got 1",
        ),
        (Method::Compress(compress(4, 0, 2, CompressMode::Accumulate)), "budget must be at least 1, got 0"),
        (
            Method::Compress(compress(0, 4, 2, CompressMode::Accumulate)),
            "block_size must be at least 1, got 0",
        ),
        (Method::Summary(clusters(4, 0)), "k must be at least 1, got 0"),
        (
            Method::Summary(SummaryOptions { pruning_percent: 101.0, ..Default::default() }),
            "pruning_percent must be in [0, 100], got 101",
        ),
        (
            Method::Summary(SummaryOptions { pruning_percent: f32::NAN, ..Default::default() }),
            "pruning_percent must be in [0, 100], got NaN",
        ),
        (
            Method::Summary(SummaryOptions { chunk_size: 0, ..Default::default() }),
            "chunk_size must be at least 1, got 0",
        ),
        (
            Method::Summary(SummaryOptions { num_layers_for_clustering: 0, ..Default::default() }),
            "num_layers_for_clustering must be at least 1, got 0",
        ),
    ] {
        let error = answer_on(&*case.model, &Alone, &case.context, &case.query, &by(method), 1).unwrap_err();
        assert_eq!(error.to_string(), sentence);
    }
}

#[test]
fn a_query_that_stands_beyond_the_model_is_refused() {
    let case = Case::new(4090, 7);
    let ask = |method| answer_on(&*case.model, &Alone, &case.context, &case.query, &by(method), 1);
    let limit = "the context takes 4097 positions, but max_position_embeddings is 4096";
    for method in [
        Method::SequentialTopK(sequential(2048, 4)),
        Method::Compress(compress(2048, 64, 4, CompressMode::Recursive)),
    ] {
        assert_eq!(ask(method).unwrap_err().to_string(), limit);
    }
    // As published it stands right after what is kept.
    assert_eq!(ask(Method::SequentialTopK(published(2048, 4))).unwrap().report.kept_tokens, 8);
}
