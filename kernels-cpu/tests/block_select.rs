//! XAttention's selection against the reference and the published results.

use half::bf16;
use lacuna_core::{
    AttentionShape, BlockMask, Layout, Seqlens, Threshold, XAttentionCompat, XAttentionOptions,
};
use lacuna_kernels_cpu::antidiagonal_score::{self, BlockScores};
use lacuna_kernels_cpu::block_select::Plan;
use lacuna_reference::testing::{MaskBounds, Rng, ShapeLimits, Tensor, golden, seeds};
use lacuna_reference::{block_select, block_select_bounds, case};

fn single(q: usize, k: usize, heads: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

fn select(
    shape: &AttentionShape,
    scores: &BlockScores,
    options: &XAttentionOptions,
    causal: bool,
) -> BlockMask {
    Plan::new(shape, options, causal).unwrap().run(scores).unwrap().clone()
}

fn rows(mask: &BlockMask, head: usize) -> Vec<Vec<u32>> {
    (0..mask.m_blocks(0)).map(|m| mask.row(0, head, m).to_vec()).collect()
}

#[test]
fn golden_selections() {
    for selection in golden::selections() {
        let shape = selection.shape();
        let scores = BlockScores::from_vec(&shape, 128, selection.scores.to_vec()).unwrap();
        for &(threshold, want) in selection.rows {
            let mask = select(&shape, &scores, &selection.options(threshold), true);
            assert_eq!(rows(&mask, 0), want, "{threshold}");
        }
    }
}

/// Scores and selection together, as published.
#[test]
fn golden_end_to_end() {
    let (shape, q, k) = golden::inputs(2, 2);
    for row in golden::x_attention() {
        let options = row.options();
        let mut plan = antidiagonal_score::Plan::new(&shape, &options, true).unwrap();
        let mask = select(&shape, plan.run(&q.view(), &k.view()).unwrap(), &options, true);
        assert_eq!(golden::bit_rows(&mask, row.head), row.rows, "{row:?}");
    }
}

fn random_options(rng: &mut Rng, num_heads: usize) -> XAttentionOptions {
    let mut flag = || rng.chance(0.3);
    let compat = XAttentionCompat {
        first_chunk_quirk: flag(),
        keep_sink_row_bug: flag(),
        chunk_align_past: flag(),
        tail_group: flag(),
    };
    let threshold = match rng.below(3) {
        0 => Threshold::PerHead((0..num_heads).map(|_| rng.uniform() as f32).collect()),
        _ => Threshold::Scalar(*rng.choose(&[0.0, 0.3, 0.7, 0.9, 1.0])),
    };
    XAttentionOptions {
        threshold,
        block_size: *rng.choose(&[16, 32]),
        keep_sink: rng.chance(0.3),
        keep_recent: rng.chance(0.3),
        chunk_size: rng.chance(0.7).then_some(64),
        compat,
        ..Default::default()
    }
}

/// Few distinct scores, whose sums are exact: ties everywhere, and equality to the block.
#[test]
fn equals_the_reference_exactly_on_small_integers() {
    for seed in seeds(200) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, ..Default::default() });
        let options = random_options(&mut rng, shape.num_heads);
        let causal = rng.chance(0.7);
        let mut scores = BlockScores::zeros(&shape, options.block_size).unwrap().scores().to_vec();
        scores.iter_mut().for_each(|x| *x = rng.below(5) as f32);
        let scores = BlockScores::from_vec(&shape, options.block_size, scores).unwrap();
        let want = block_select(&shape, &to_reference(&shape, &scores), &options, causal).unwrap();
        let case = case!(seed, "causal {causal} {shape:?} {options:?}");
        assert_eq!(select(&shape, &scores, &options, causal), want, "{case}");
    }
}

fn to_reference(shape: &AttentionShape, scores: &BlockScores) -> lacuna_reference::BlockScores {
    let rows = (0..shape.seqlens.batch())
        .flat_map(|b| (0..shape.num_heads).flat_map(move |h| (0..scores.m_blocks(b)).map(move |m| (b, h, m))))
        .map(|(b, h, m)| scores.row(b, h, m).iter().map(|&x| x as f64).collect())
        .collect();
    lacuna_reference::BlockScores::new(shape, scores.block_size(), rows).unwrap()
}

#[test]
fn score_and_selection_equal_the_reference_within_rounding() {
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, ..Default::default() });
        let options = XAttentionOptions { stride: 4, ..random_options(&mut rng, shape.num_heads) };
        let mut random = |tokens, heads| {
            Tensor::<bf16>::from_fn(Layout::thd(tokens, heads, shape.head_dim), |_, _, _| 2.0 * rng.normal())
        };
        let q = random(shape.seqlens.total_q(), shape.num_heads);
        let k = random(shape.seqlens.total_k(), shape.num_heads_k);
        let causal = rng.chance(0.7);
        let case = case!(seed, "causal {causal} {shape:?} {options:?}");
        let want =
            lacuna_reference::antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
        let bounds = block_select_bounds(&shape, &want, &options, causal, MaskBounds::EPS).unwrap();
        let mut plan = antidiagonal_score::Plan::new(&shape, &options, causal).unwrap();
        let scores = plan.run(&q.view(), &k.view()).unwrap();
        bounds.assert_contain(&select(&shape, scores, &options, causal), &case);
    }
}

#[test]
fn more_threshold_never_drops_a_block() {
    for seed in seeds(30) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, ..Default::default() });
        let mut options = random_options(&mut rng, shape.num_heads);
        let mut scores = BlockScores::zeros(&shape, options.block_size).unwrap().scores().to_vec();
        scores.iter_mut().for_each(|x| *x = rng.uniform() as f32);
        let scores = BlockScores::from_vec(&shape, options.block_size, scores).unwrap();
        let case = case!(seed, "{shape:?} {options:?}");
        let mut last: Option<BlockMask> = None;
        for threshold in [0.0, 0.4, 0.8, 0.99, 1.0] {
            options.threshold = Threshold::Scalar(threshold);
            let mask = select(&shape, &scores, &options, true);
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
    }
}

/// A run of keys along the direction of middle queries: unlike a search that looks at the last queries, every row of
/// blocks asks for itself.
#[test]
fn finds_a_needle_that_middle_queries_ask_for() {
    let (len, needle, asking) = (2048, 640..656, 1024..1280);
    let shape = single(len, len, 1, 64);
    let mut rng = Rng::new(11);
    let q = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
        0.3 * rng.normal() + if d == 0 && asking.contains(&t) { 8.0 } else { 0.0 }
    });
    let k = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
        0.3 * rng.normal() + if d == 0 && needle.contains(&t) { 12.0 } else { 0.0 }
    });
    for stride in [4, 8, 16] {
        let options = XAttentionOptions { stride, threshold: Threshold::Scalar(0.5), ..Default::default() };
        let mut plan = antidiagonal_score::Plan::new(&shape, &options, true).unwrap();
        let mask = select(&shape, plan.run(&q.view(), &k.view()).unwrap(), &options, true);
        assert!((8..10).all(|m| mask.row(0, 0, m).contains(&5)), "stride {stride}");
    }
}

#[test]
fn refuses_scores_it_cannot_rank() {
    let shape = single(256, 256, 1, 16);
    let options = XAttentionOptions::default();
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let scores = BlockScores::from_vec(&shape, 128, vec![1.0, 0.0, bad, 1.0]).unwrap();
        assert!(Plan::new(&shape, &options, true).unwrap().run(&scores).is_err());
    }
    let other = BlockScores::zeros(&shape, 64).unwrap();
    assert!(Plan::new(&shape, &options, true).unwrap().run(&other).is_err());
    assert!(BlockScores::from_vec(&shape, 128, vec![0.0; 3]).is_err());
}
