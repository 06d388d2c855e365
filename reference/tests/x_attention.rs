//! XAttention's scores and selection against published results and their own promises.

use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, Seqlens, TensorView, Threshold, XAttentionCompat,
    XAttentionOptions,
};
use lacuna_reference::testing::{
    MaskBounds, Rng, ShapeLimits, Tensor, Tolerance, assert_close, golden, seeds,
};
use lacuna_reference::{
    BlockScores, antidiagonal_score, block_select, block_select_bounds, case, dense_attention,
};

fn single(q: usize, k: usize, heads: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

fn rows(mask: &BlockMask, head: usize) -> Vec<Vec<u32>> {
    (0..mask.m_blocks(0)).map(|m| mask.row(0, head, m).to_vec()).collect()
}

#[test]
fn golden_selections() {
    for selection in golden::selections() {
        let shape = selection.shape();
        let n_blocks = shape.seqlens.seqlen_k(0).div_ceil(128);
        let scores: Vec<f64> = selection.scores.iter().map(|&x| x as f64).collect();
        let scores = scores.chunks(n_blocks).map(<[f64]>::to_vec).collect();
        let scores = BlockScores::new(&shape, 128, scores).unwrap();
        for &(threshold, want) in selection.rows {
            let mask = block_select(&shape, &scores, &selection.options(threshold), true).unwrap();
            assert_eq!(rows(&mask, 0), want, "{threshold}");
        }
    }
}

#[test]
fn golden_end_to_end() {
    let (shape, q, k) = golden::inputs(2, 2);
    let (q, k) = (q.view(), k.view());
    for row in golden::x_attention() {
        let options = row.options();
        let scores = antidiagonal_score(&shape, &q, &k, &options, true).unwrap();
        let mask = block_select(&shape, &scores, &options, true).unwrap();
        assert_eq!(golden::bit_rows(&mask, row.head), row.rows, "{row:?}");
    }
    for (stride, last, sum) in [
        (8, [3.23564, 1.471, 1.6952, 1.55693, 1.43068, 1.54083, 1.46245, 0.60725], 13.0),
        (16, [1.21115, 0.88649, 0.98201, 0.95418, 0.79978, 0.8744, 0.87573, 0.41626], 7.0),
    ] {
        let options = XAttentionOptions { stride, compat: XAttentionCompat::ORIGINAL, ..Default::default() };
        let scores = antidiagonal_score(&shape, &q, &k, &options, true).unwrap();
        assert_close(scores.row(0, 0, 7), &last, Tolerance::absolute(6e-6), &case!(0, "stride {stride}"));
        for m in 0..8 {
            let want = if m == 7 { sum } else { (128 / stride) as f64 };
            assert!((scores.row(0, 0, m).iter().sum::<f64>() - want).abs() < 1e-9, "row {m}");
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
        stride: *rng.choose(&[1, 4, 8, 16]),
        threshold,
        block_size: *rng.choose(&[16, 32]),
        norm: *rng.choose(&[1.0, 2.0]),
        gqa_interleave: rng.chance(0.5),
        keep_sink: rng.chance(0.3),
        keep_recent: rng.chance(0.3),
        chunk_size: rng.chance(0.7).then_some(64),
        compat,
        ..Default::default()
    }
}

#[test]
fn stride_1_is_the_block_sum_of_the_softmax() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 60, head_dims: &[8], ..Default::default() });
        let q = Tensor::<f32>::random(&mut rng, shape.seqlens.total_q(), shape.num_heads, 8);
        let k = Tensor::<f32>::random(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, 8);
        let causal = rng.chance(0.7);
        let options = XAttentionOptions { stride: 1, block_size: 16, ..Default::default() };
        let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
        let case = case!(seed, "{shape:?} causal {causal}");
        // The weight of a block is what attention makes of values that are 1 within it and 0 elsewhere.
        let attention = AttentionOptions { causal, ..Default::default() };
        for b in 0..shape.seqlens.batch() {
            let k_start = shape.seqlens.k_range(b).start;
            let n_blocks = shape.seqlens.seqlen_k(b).div_ceil(16);
            for n in 0..n_blocks {
                let v = Tensor::<f32>::from_fn(*k.view().layout(), |t, _, _| {
                    (t >= k_start && (t - k_start) / 16 == n) as u8 as f64
                });
                let out = dense_attention(&shape, &q.view(), &k.view(), &v.view(), &attention).unwrap().out;
                for h in 0..shape.num_heads {
                    for (m, rows) in shape.seqlens.q_range(b).collect::<Vec<_>>().chunks(16).enumerate() {
                        let want: f64 = rows.iter().map(|i| out[(i * shape.num_heads + h) * 8]).sum();
                        let got = scores.row(b, h, m)[n];
                        assert_close(&[got], &[want], Tolerance::absolute(1e-9), &case);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_sum_to_their_groups() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 100, head_dims: &[8], ..Default::default() });
        let q = Tensor::<f32>::random(&mut rng, shape.seqlens.total_q(), shape.num_heads, 8);
        let k = Tensor::<f32>::random(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, 8);
        let options =
            XAttentionOptions { compat: Default::default(), ..random_options(&mut rng, shape.num_heads) };
        let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, true).unwrap();
        for b in 0..shape.seqlens.batch() {
            let (seqlen_q, past) = (shape.seqlens.seqlen_q(b), shape.seqlens.past(b));
            if past < 0 || shape.seqlens.seqlen_k(b) < 2 * options.stride {
                continue;
            }
            for h in 0..shape.num_heads {
                for m in 0..seqlen_q.div_ceil(options.block_size) {
                    let rows = options.block_size.min(seqlen_q - m * options.block_size);
                    let sum: f64 = scores.row(b, h, m).iter().sum();
                    let groups = rows.div_ceil(options.stride) as f64;
                    // The partial last group may find no pair among the first keys.
                    assert!(
                        sum <= groups + 1e-9 && sum > groups - 1.0 - 1e-9,
                        "{}",
                        case!(seed, "{shape:?} {options:?}")
                    );
                    if rows.is_multiple_of(options.stride) {
                        assert!((sum - groups).abs() < 1e-9, "{}", case!(seed, "{shape:?} {options:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn promises_hold_on_random_batches() {
    for seed in seeds(100) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 200, head_dims: &[8], ..Default::default() });
        let options = random_options(&mut rng, shape.num_heads);
        let causal = rng.chance(0.8);
        let q = Tensor::<f32>::random(&mut rng, shape.seqlens.total_q(), shape.num_heads, 8);
        let k = Tensor::<f32>::random(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, 8);
        let case = case!(seed, "{shape:?} {options:?} causal {causal}");
        let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
        let mask = block_select(&shape, &scores, &options, causal).unwrap();
        for eps in [0.0, MaskBounds::EPS, 0.1] {
            let bounds = block_select_bounds(&shape, &scores, &options, causal, eps).unwrap();
            bounds.assert_contain(&mask, &case);
        }
        for b in 0..shape.seqlens.batch() {
            for h in 0..shape.num_heads {
                for m in 0..mask.m_blocks(b) {
                    let row = mask.row(b, h, m);
                    if causal && !options.compat.chunk_align_past {
                        let visible = mask.visible_blocks(b, m, true);
                        let t0 = (shape.seqlens.past(b) + (m * options.block_size) as isize).max(0) as usize;
                        let mut forced = (t0 / options.block_size..visible).chain((visible > 0).then_some(0));
                        assert!(forced.all(|n| row.contains(&(n as u32))), "forced block missing: {case}");
                        assert!(row.iter().all(|&n| (n as usize) < visible), "block after the row: {case}");
                    }
                    if options.threshold.of_head(h) == 1.0 && !options.compat.chunk_align_past {
                        assert_eq!(
                            row.len(),
                            mask.visible_blocks(b, m, causal),
                            "threshold 1 is not dense: {case}"
                        );
                    }
                }
            }
            // Every sequence decides alone.
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            let seqlens = Seqlens::single(q_range.len(), k_range.len()).unwrap();
            let alone = AttentionShape { seqlens, ..shape.clone() };
            let (q, k) = (q.tokens(q_range), k.tokens(k_range));
            let scores = antidiagonal_score(&alone, &q.view(), &k.view(), &options, causal).unwrap();
            let alone = block_select(&alone, &scores, &options, causal).unwrap();
            for h in 0..shape.num_heads {
                for m in 0..mask.m_blocks(b) {
                    assert_eq!(alone.row(0, h, m), mask.row(b, h, m), "{case}");
                }
            }
        }
    }
}

#[test]
fn a_larger_threshold_never_drops_a_block() {
    for seed in seeds(30) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 200, head_dims: &[8], ..Default::default() });
        let mut options = random_options(&mut rng, shape.num_heads);
        let causal = rng.chance(0.8);
        let q = Tensor::<f32>::random(&mut rng, shape.seqlens.total_q(), shape.num_heads, 8);
        let k = Tensor::<f32>::random(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, 8);
        let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
        let mut last: Option<BlockMask> = None;
        for threshold in [0.0, 0.2, 0.5, 0.9, 0.99, 1.0] {
            options.threshold = Threshold::Scalar(threshold);
            let mask = block_select(&shape, &scores, &options, causal).unwrap();
            if let Some(last) = last {
                let bounds = MaskBounds { certain: last, possible: mask.clone() };
                bounds.assert_contain(&mask, &case!(seed, "{shape:?} {options:?} causal {causal}"));
            }
            last = Some(mask);
        }
    }
}

#[test]
fn sink_and_recent() {
    let shape = single(60, 100, 1, 8);
    // All weight on the second block: sink and recent blocks come by force only.
    let scores = BlockScores::new(&shape, 16, vec![vec![0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]; 4]).unwrap();
    let select = |keep_sink, keep_recent, keep_sink_row_bug, causal| {
        let options = XAttentionOptions {
            block_size: 16,
            threshold: Threshold::Scalar(0.9),
            keep_sink,
            keep_recent,
            compat: XAttentionCompat { keep_sink_row_bug, ..Default::default() },
            ..Default::default()
        };
        rows(&block_select(&shape, &scores, &options, causal).unwrap(), 0)
    };
    // Past 40: a block of 16 rows meets two key blocks.
    let forced = [vec![0, 1, 2, 3], vec![0, 1, 3, 4], vec![0, 1, 4, 5], vec![0, 1, 5, 6]];
    assert_eq!(select(false, false, false, true), forced);
    assert_eq!(select(true, true, false, true), forced);
    assert_eq!(select(true, true, true, true), forced);
    assert_eq!(select(false, false, false, false), vec![vec![1]; 4]);
    assert_eq!(select(true, false, false, false), vec![vec![0, 1]; 4]);
    assert_eq!(
        select(false, true, false, false),
        [vec![1, 2, 3], vec![1, 3, 4], vec![1, 4, 5], vec![1, 5, 6]]
    );
    assert_eq!(select(true, false, true, false), [vec![0, 1, 2, 3, 4, 5, 6], vec![1], vec![1], vec![1]]);
}

#[test]
fn one_key_block_and_ties() {
    let shape = single(20, 20, 1, 8);
    let x = Tensor::<f32>::random(&mut Rng::new(0), 20, 1, 8);
    for compat in [XAttentionCompat::default(), XAttentionCompat::ORIGINAL] {
        let options = XAttentionOptions { compat, ..Default::default() };
        let scores = antidiagonal_score(&shape, &x.view(), &x.view(), &options, true).unwrap();
        assert_eq!(rows(&block_select(&shape, &scores, &options, true).unwrap(), 0), [[0]]);
    }
    let shape = single(16, 96, 1, 8);
    let scores = BlockScores::new(&shape, 16, vec![vec![1.0; 6]]).unwrap();
    let options =
        XAttentionOptions { block_size: 16, threshold: Threshold::Scalar(0.5), ..Default::default() };
    assert_eq!(rows(&block_select(&shape, &scores, &options, true).unwrap(), 0), [[0, 1, 5]]);
    assert_eq!(rows(&block_select(&shape, &scores, &options, false).unwrap(), 0), [[0, 1, 2]]);
}

/// A run of `stride` equal keys along the query direction is seen through the mean of the anti-diagonal.
#[test]
fn finds_a_planted_run() {
    let (len, dim, block) = (256, 16, 32);
    let shape = single(len, len, 1, dim);
    for stride in [4, 8, 16] {
        let mut rng = Rng::new(stride as u64);
        let thd = lacuna_core::Layout::thd(len, 1, dim);
        let q = Tensor::<f32>::from_fn(thd, |_, _, d| 0.3 * rng.normal() + (d == 0) as u8 as f64 * 8.0);
        let planted = 2 * block..2 * block + stride;
        let k = Tensor::<f32>::from_fn(thd, |t, _, d| {
            0.3 * rng.normal() + (d == 0 && planted.contains(&t)) as u8 as f64 * 8.0
        });
        let options = XAttentionOptions {
            stride,
            block_size: block,
            threshold: Threshold::Scalar(0.5),
            ..Default::default()
        };
        let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, true).unwrap();
        for row in &rows(&block_select(&shape, &scores, &options, true).unwrap(), 0)[2..] {
            assert!(row.contains(&2), "stride {stride}: {row:?}");
        }
    }
}

/// The bounds hold whatever small errors the scores carry.
#[test]
fn bounds_hold_for_inexact_scores() {
    let mut close = 0;
    for seed in seeds(60) {
        let mut rng = Rng::new(seed);
        let shape = single(64, 160, 1, 8);
        let options = XAttentionOptions {
            block_size: 16,
            threshold: Threshold::Scalar(rng.uniform() as f32),
            compat: XAttentionCompat { first_chunk_quirk: rng.chance(0.5), ..Default::default() },
            ..Default::default()
        };
        // Past 0 is where the quirk applies.
        let shape = if options.compat.first_chunk_quirk { single(160, 160, 1, 8) } else { shape };
        let m_blocks = shape.seqlens.seqlen_q(0) / 16;
        let exact: Vec<Vec<f64>> =
            (0..m_blocks).map(|_| (0..10).map(|_| 1.0 + 0.2 * rng.uniform()).collect()).collect();
        let inexact: Vec<Vec<f64>> = exact
            .iter()
            .map(|row| row.iter().map(|x| x * (1.0 + 1e-3 * (2.0 * rng.uniform() - 1.0))).collect())
            .collect();
        let case = case!(seed, "{shape:?} {options:?}");
        let scores = |rows| BlockScores::new(&shape, 16, rows).unwrap();
        let bounds = block_select_bounds(&shape, &scores(exact), &options, true, 4e-3).unwrap();
        bounds.assert_contain(&block_select(&shape, &scores(inexact), &options, true).unwrap(), &case);
        close += bounds.close_calls();
    }
    assert!(close > 0, "nothing was close");
}

#[test]
fn nan_stays_harmless() {
    let shape = single(40, 70, 2, 8);
    let mut rng = Rng::new(0);
    let (mut q, mut k) =
        (Tensor::<f32>::random(&mut rng, 40, 2, 8), Tensor::<f32>::random(&mut rng, 70, 2, 8));
    q.poison(3..5);
    k.poison(60..61);
    for compat in [XAttentionCompat::default(), XAttentionCompat::ORIGINAL] {
        for causal in [true, false] {
            let options = XAttentionOptions { block_size: 16, compat, ..Default::default() };
            let scores = antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
            assert!(block_select(&shape, &scores, &options, causal).unwrap().is_complete());
        }
    }
}

/// Scores of one head whose queries and keys are all ones, so that a group's logit is its share of valid pairs.
fn flat_scores(seqlen_q: usize, seqlen_k: usize, compat: XAttentionCompat) -> (BlockScores, BlockMask) {
    let shape = single(seqlen_q, seqlen_k, 1, 1);
    let ones = vec![1.0f32; seqlen_q.max(seqlen_k)];
    let view = |n| TensorView::thd(&ones, n, 1, 1).unwrap();
    let options = XAttentionOptions {
        stride: 4,
        block_size: 16,
        threshold: Threshold::Scalar(0.0),
        softmax_scale: Some(1.0),
        chunk_size: Some(64),
        compat,
        ..Default::default()
    };
    let scores = antidiagonal_score(&shape, &view(seqlen_q), &view(seqlen_k), &options, true).unwrap();
    let mask = block_select(&shape, &scores, &options, true).unwrap();
    (scores, mask)
}

#[test]
fn a_partial_group_weighs_its_valid_pairs() {
    // 35 tokens: the last group has 3, which make 3 pairs with a full group and 2 with itself.
    let tolerance = Tolerance::absolute(1e-12);
    let (fixed, _) = flat_scores(35, 35, XAttentionCompat::default());
    assert_close(fixed.row(0, 0, 2), &[4.0 / 9.0, 4.0 / 9.0, 1.0 / 9.0], tolerance, &case!(0));
    let (published, _) = flat_scores(35, 35, XAttentionCompat { tail_group: true, ..Default::default() });
    let (full, tail) = (0.75f64.exp(), 0.5f64.exp());
    let sum = 8.0 * full + tail;
    assert_close(
        published.row(0, 0, 2),
        &[4.0 * full / sum, 4.0 * full / sum, tail / sum],
        tolerance,
        &case!(0),
    );
}

#[test]
fn groups_see_by_their_true_position() {
    // Past 3: group 0 stands at keys 3 to 6, which reach into key group 1.
    let (scores, _) = flat_scores(16, 19, XAttentionCompat::default());
    assert_close(scores.row(0, 0, 0), &[3.8, 0.2], Tolerance::absolute(1e-12), &case!(0));
}

#[test]
fn published_past_comes_from_padded_lengths() {
    // Chunks of 64 tokens: past 128 - 64 instead of 32. Rows that seem to lie beyond the last key weigh nothing.
    let (scores, mask) =
        flat_scores(48, 80, XAttentionCompat { chunk_align_past: true, ..Default::default() });
    let early: f64 = (0..4).map(|i| 4.0 / (17 + i) as f64).sum();
    let own: f64 = (0..4).map(|i| (1 + i) as f64 / (17 + i) as f64).sum();
    assert_close(
        scores.row(0, 0, 0),
        &[early, early, early, early, own],
        Tolerance::absolute(1e-12),
        &case!(0),
    );
    assert_eq!([scores.row(0, 0, 1), scores.row(0, 0, 2)], [[0.0; 5]; 2]);
    assert_eq!(rows(&mask, 0), [vec![0, 4], vec![0], vec![0]]);
    let (_, mask) = flat_scores(48, 80, XAttentionCompat::default());
    assert_eq!(rows(&mask, 0), [vec![0, 2], vec![0, 3], vec![0, 4]]);
}
