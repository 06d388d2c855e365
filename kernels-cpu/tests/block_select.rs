//! XAttention's selection against the reference and the published results.

use half::bf16;
use lacuna_core::{
    AttentionShape, BlockMask, Layout, Seqlens, Threshold, XAttentionCompat, XAttentionOptions,
};
use lacuna_kernels_cpu::antidiagonal_score::{self, BlockScores};
use lacuna_kernels_cpu::block_select::Plan;
use lacuna_reference::testing::{Lcg, MaskBounds, Rng, ShapeLimits, Tensor, seeds};
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
fn golden_selection_of_the_first_chunk() {
    let a = [0.5f32, 0.0, 0.0, 0.0, 0.2, 0.3, 0.0, 0.0, 0.1, 0.35, 0.05, 0.0, 0.05, 0.4, 0.25, 0.3];
    let shape = single(512, 512, 1, 16);
    let scores = BlockScores::from_vec(&shape, 128, a.to_vec()).unwrap();
    for threshold in [0.0, 0.5, 0.7, 0.9, 1.0] {
        let options = XAttentionOptions {
            threshold: Threshold::Scalar(threshold),
            compat: XAttentionCompat { first_chunk_quirk: true, ..Default::default() },
            ..Default::default()
        };
        let want = if threshold == 0.0 {
            [vec![0], vec![0, 1], vec![0, 2], vec![0, 3]]
        } else {
            [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3]]
        };
        assert_eq!(rows(&select(&shape, &scores, &options, true), 0), want, "{threshold}");
    }
}

#[test]
fn golden_selection_of_a_later_chunk() {
    let a = [0.1f32, 0.2, 0.3, 0.4, 0.0, 0.05, 0.25, 0.1, 0.15, 0.45];
    let shape = single(256, 640, 1, 16);
    let scores = BlockScores::from_vec(&shape, 128, a.to_vec()).unwrap();
    for (threshold, want) in [
        (0.0, [vec![0, 3], vec![0, 4]]),
        (0.5, [vec![0, 2, 3], vec![0, 1, 4]]),
        (0.6, [vec![0, 2, 3], vec![0, 1, 4]]),
        // 0.8 and 0.9 are covered exactly, and lie just below and above the nearest f32.
        (0.8f32.next_down(), [vec![0, 2, 3], vec![0, 1, 3, 4]]),
        (0.9f32.next_up(), [vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4]]),
        (1.0, [vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4]]),
    ] {
        let options = XAttentionOptions { threshold: Threshold::Scalar(threshold), ..Default::default() };
        assert_eq!(rows(&select(&shape, &scores, &options, true), 0), want, "{threshold}");
    }
}

/// Scores and selection together, as published.
#[test]
fn golden_end_to_end() {
    let fill = |seed: u32| -> Vec<f32> {
        let mut lcg = Lcg::new(seed);
        (0..1000 * 2 * 16).map(|_| lcg.next_f32() * 4.0).collect()
    };
    let (mut q, mut k) = (fill(1), fill(2));
    (0..1000).for_each(|t| q[t * 32] += 3.0);
    (0..8).for_each(|row| k[row * 16] += 8.0);
    let shape = single(1000, 1000, 2, 16);
    let view = |x: &[f32]| {
        Tensor::<f32>::from_fn(Layout::thd(1000, 2, 16), |t, h, d| x[(t * 2 + h) * 16 + d] as f64)
    };
    let (q, k) = (view(&q), view(&k));
    let table = [
        (8, 0, "1 11 111 1111 11111 111111 1111101 11110111", "1 11 101 1101 11011 111101 1111001 11110101"),
        (8, 1, "1 11 111 1111 11111 111111 1101111 11011111", "1 11 111 1011 11011 111101 1101101 11010111"),
        (16, 0, "1 11 111 1111 11111 111111 1111101 11110111", "1 11 111 1101 11011 111101 1111001 11110011"),
        (16, 1, "1 11 111 1111 11111 111111 1101111 11011111", "1 11 111 1011 11011 111101 1101011 11010111"),
    ];
    for (stride, head, published, intended) in table {
        let intended_rule = XAttentionCompat { first_chunk_quirk: false, ..XAttentionCompat::ORIGINAL };
        for (compat, want) in [(XAttentionCompat::ORIGINAL, published), (intended_rule, intended)] {
            for (threshold, want) in [(0.7, want), (0.9, "1 11 111 1111 11111 111111 1111111 11111111")] {
                let options = XAttentionOptions {
                    stride,
                    threshold: Threshold::Scalar(threshold),
                    chunk_size: Some(2048),
                    compat,
                    ..Default::default()
                };
                let mut plan = antidiagonal_score::Plan::new(&shape, &options, true).unwrap();
                let mask = select(&shape, plan.run(&q.view(), &k.view()).unwrap(), &options, true);
                let bits = |(m, row): (usize, Vec<u32>)| -> String {
                    (0..=m as u32).map(|n| if row.contains(&n) { '1' } else { '0' }).collect()
                };
                let got: Vec<String> = rows(&mask, head).into_iter().enumerate().map(bits).collect();
                assert_eq!(
                    got.join(" "),
                    want,
                    "stride {stride}, head {head}, threshold {threshold}, {compat:?}"
                );
            }
        }
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
