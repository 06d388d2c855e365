//! FlexPrefill's search against published results and its own promises.

use half::bf16;
use lacuna_core::{
    AttentionShape, BlockMask, FlexPrefillCompat, FlexPrefillOptions, Layout, Seqlens, TensorView,
};
use lacuna_reference::testing::{MaskBounds, Rng, ShapeLimits, Tensor, edge_lengths, golden, seeds};
use lacuna_reference::{case, flex_prefill, flex_prefill_bounds};

fn single(q: usize, k: usize, heads: usize, heads_k: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

#[test]
fn golden_table_of_the_published_code() {
    let (shape, q, k) = golden::inputs(2, 1);
    let (q, k) = (q.view(), k.view());
    for row in golden::FLEX_PREFILL {
        let options = row.options();
        let found = flex_prefill(&shape, &q, &k, &options).unwrap();
        let report = found.heads[row.head].unwrap();
        let says = format!("{row:?}: {report:?}");
        assert_eq!(report.query_aware, row.query_aware, "{says}");
        assert_eq!(
            (report.vertical_blocks, report.slash_blocks),
            (row.vertical_blocks, row.slash_blocks),
            "{says}"
        );
        assert!((report.sqrt_jsd - row.sqrt_jsd).abs() < 1e-6, "{says}");
        assert_eq!(golden::flat_blocks(&found.block_mask, row.head), row.blocks(), "{says}");
        // One score of the last line lies close to its cut, nothing else.
        let bounds = flex_prefill_bounds(&shape, &q, &k, &options, MaskBounds::EPS).unwrap();
        bounds.check(&found.block_mask).unwrap();
        assert!(bounds.close_calls() <= 1);
    }
}

/// Flat attention: pooled and true attention differ by the causal ramp of the probe and the size of the tail only.
#[test]
fn divergence_of_flat_attention() {
    let published = [
        (384, 0.1155),
        (512, 0.1008),
        (1024, 0.0718),
        (1025, 0.2117),
        (1088, 0.1483),
        (2048, 0.0509),
        (2049, 0.1525),
        (4096, 0.036),
        (4097, 0.1088),
        (8192, 0.0255),
        (32768, 0.0128),
    ];
    for (len, want) in published {
        let shape = single(len, len, 1, 1, 1);
        let zeros = vec![0.0f32; len];
        let x = TensorView::thd(&zeros, len, 1, 1).unwrap();
        let sqrt_jsd = |compat| {
            let options = FlexPrefillOptions { min_budget: 128, compat, ..Default::default() };
            flex_prefill(&shape, &x, &x, &options).unwrap().heads[0].unwrap().sqrt_jsd
        };
        let floor = sqrt_jsd(FlexPrefillCompat::ORIGINAL);
        assert!((floor - want).abs() < 6e-5, "{len} tokens: {floor} {want}");
        // Weights and mask remove it up to the row-by-row normalisation: the pooled share of a block is its share of
        // the pairs seen, the true one the mean of each row's share.
        let row = |i: usize| len - 127 + i;
        let seen = |i: usize, n: usize| row(i).min((n + 1) * 128).saturating_sub(n * 128) as f64;
        let pairs: f64 = (0..128).map(|i| row(i) as f64).sum();
        let square: f64 = (0..len.div_ceil(128))
            .map(|n| {
                let pooled: f64 = (0..128).map(|i| seen(i, n)).sum::<f64>() / pairs;
                let real: f64 = (0..128).map(|i| seen(i, n) / row(i) as f64).sum::<f64>() / 128.0;
                let mean = (pooled + real) / 2.0;
                (pooled * (pooled / mean).ln() + real * (real / mean).ln()) / 2.0
            })
            .sum();
        let fixed = sqrt_jsd(FlexPrefillCompat::default());
        let says = format!("{len} tokens: {fixed} {square}");
        assert!(fixed < 0.03 && (fixed - square.max(0.0).sqrt()).abs() < 1e-6, "{says}");
    }
}

fn random_options(rng: &mut Rng) -> FlexPrefillOptions {
    let mut flag = || rng.chance(0.3);
    let compat = FlexPrefillCompat {
        count_div: flag(),
        slash_cover: flag(),
        tail_align: flag(),
        jsd_weighted: flag(),
        probe_round: flag(),
    };
    FlexPrefillOptions {
        gamma: *rng.choose(&[0.3, 0.5, 0.8, 0.9, 0.95]),
        tau: *rng.choose(&[0.0, 0.1, 0.3, 1.0]),
        block_size: *rng.choose(&[16, 32]),
        min_budget: *rng.choose(&[0, 20, 64]),
        max_budget: *rng.choose(&[None, Some(64), Some(100)]),
        gqa_interleave: rng.chance(0.5),
        qa_only: rng.chance(0.5),
        compat,
        ..Default::default()
    }
}

/// Queries and keys with a few strong columns, so that heads differ in kind.
fn random_input(rng: &mut Rng, shape: &AttentionShape, strength: f64) -> (Tensor<bf16>, Tensor<bf16>) {
    let mut spiky = |tokens: usize, heads: usize, always: bool| {
        Tensor::from_fn(Layout::thd(tokens, heads, shape.head_dim), |t, h, d| {
            let spike = d == h % shape.head_dim && (always || t % 23 == h);
            rng.normal() + if spike { strength } else { 0.0 }
        })
    };
    let q = spiky(shape.seqlens.total_q(), shape.num_heads, true);
    (q, spiky(shape.seqlens.total_k(), shape.num_heads_k, false))
}

#[test]
fn promises_hold_on_random_batches() {
    for seed in seeds(60) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, ..Default::default() });
        let options = random_options(&mut rng);
        let strength = *rng.choose(&[0.0, 1.0, 3.0]);
        let (q, k) = random_input(&mut rng, &shape, strength);
        let case = case!(seed, "{shape:?} {options:?}");
        let found = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
        let bounds = flex_prefill_bounds(&shape, &q.view(), &k.view(), &options, MaskBounds::EPS).unwrap();
        bounds.assert_contain(&found.block_mask, &case);
        let exact = flex_prefill_bounds(&shape, &q.view(), &k.view(), &options, 0.0).unwrap();
        exact.assert_contain(&found.block_mask, &case);

        let (mask, b) = (&found.block_mask, options.block_size);
        for s in 0..shape.seqlens.batch() {
            for h in 0..shape.num_heads {
                for m in 0..mask.m_blocks(s) {
                    let row = mask.row(s, h, m);
                    let visible = mask.visible_blocks(s, m, true);
                    assert!(row.iter().all(|&n| (n as usize) < visible), "block after the row: {case}");
                    let t0 = (shape.seqlens.past(s) + (m * b) as isize).max(0) as usize / b;
                    let forced = (t0..visible).chain((visible > 0).then_some(0));
                    assert!(
                        forced.into_iter().all(|n| row.contains(&(n as u32))),
                        "forced block missing: {case}"
                    );
                }
            }
        }

        // Every sequence decides alone.
        for s in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(s), shape.seqlens.k_range(s));
            let alone =
                single(q_range.len(), k_range.len(), shape.num_heads, shape.num_heads_k, shape.head_dim);
            let (q, k) = (q.tokens(q_range), k.tokens(k_range));
            let alone = flex_prefill(&alone, &q.view(), &k.view(), &options).unwrap();
            assert_eq!(alone.heads, found.heads[s * shape.num_heads..(s + 1) * shape.num_heads], "{case}");
            for h in 0..shape.num_heads {
                for m in 0..mask.m_blocks(s) {
                    assert_eq!(alone.block_mask.row(0, h, m), mask.row(s, h, m), "{case}");
                }
            }
        }
    }
}

#[test]
fn more_gamma_never_drops_a_block() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, max_batch: 1, ..Default::default() });
        let (q, k) = random_input(&mut rng, &shape, 2.0);
        let mut options = random_options(&mut rng);
        let case = case!(seed, "{shape:?} {options:?}");
        let mut last: Option<BlockMask> = None;
        for gamma in [0.1, 0.5, 0.9, 0.99, 1.0] {
            options.gamma = gamma;
            let mask = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap().block_mask;
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
        let dense = BlockMask::dense(&shape, options.block_size, options.block_size, true).unwrap();
        assert_eq!(last, Some(dense), "gamma 1 is not dense: {case}");
    }
}

#[test]
fn short_sequences_attend_densely() {
    let options = FlexPrefillOptions { min_budget: 100, block_size: 64, ..Default::default() };
    // Up to max(2 x 64, 100 rounded up to 128) keys, or fewer than 16 queries.
    for (q, k, dense) in
        [(128, 128, true), (129, 129, false), (15, 1000, true), (16, 1000, false), (200, 150, true)]
    {
        let shape = single(q, k, 1, 1, 4);
        let mut rng = Rng::new(0);
        let (q, k) = (Tensor::<f32>::random(&mut rng, q, 1, 4), Tensor::<f32>::random(&mut rng, k, 1, 4));
        let found = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
        assert_eq!(found.heads[0].is_none(), dense, "{shape:?}");
    }
    for n in edge_lengths(16) {
        let shape = single(n, n, 1, 1, 4);
        let x = Tensor::<f32>::random(&mut Rng::new(0), n, 1, 4);
        let options = FlexPrefillOptions { min_budget: 0, block_size: 16, ..Default::default() };
        assert!(flex_prefill(&shape, &x.view(), &x.view(), &options).unwrap().block_mask.is_complete());
    }
}

/// Permuting query heads with their KV heads permutes the lists.
#[test]
fn heads_are_equivariant() {
    let shape = single(200, 200, 4, 2, 8);
    let mut rng = Rng::new(3);
    let mut strong = |heads: usize| -> Tensor<f32> {
        Tensor::from_fn(Layout::thd(200, heads, 8), |_, _, _| 2.0 * rng.normal())
    };
    let (q, k) = (strong(4), strong(2));
    let options =
        FlexPrefillOptions { block_size: 32, min_budget: 32, gamma: 0.6, tau: 0.3, ..Default::default() };
    let found = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
    let (q, k) = (q.heads(&[3, 2, 0, 1]), k.heads(&[1, 0]));
    let permuted = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
    assert!(
        (1..4)
            .any(|h| golden::flat_blocks(&found.block_mask, h) != golden::flat_blocks(&found.block_mask, 0))
    );
    for (h, from) in [3, 2, 0, 1].into_iter().enumerate() {
        assert_eq!(
            golden::flat_blocks(&permuted.block_mask, h),
            golden::flat_blocks(&found.block_mask, from)
        );
        assert_eq!(permuted.heads[h], found.heads[from]);
    }
}

/// Equal scores: the lowest index first.
#[test]
fn ties_go_to_the_lowest_index() {
    let shape = single(256, 256, 1, 1, 4);
    let zeros = vec![0.0f32; 256 * 4];
    let x = TensorView::thd(&zeros, 256, 1, 4).unwrap();
    // Flat attention: all columns before the probe weigh the same, so do the first diagonals.
    let options =
        FlexPrefillOptions { block_size: 32, min_budget: 0, gamma: 0.4, tau: 0.0, ..Default::default() };
    let found = flex_prefill(&shape, &x, &x, &options).unwrap();
    let report = found.heads[0].unwrap();
    let (nv, ns) = (report.vertical_blocks, report.slash_blocks);
    assert!(nv > 1 && nv < 7 && ns > 1 && ns < 6, "{report:?}");
    for m in 0..8u32 {
        let want: Vec<u32> = (0..=m).filter(|&n| n < nv as u32 || m - n <= ns as u32).collect();
        assert_eq!(found.block_mask.row(0, 0, m as usize), want);
    }
}

/// A token diagonal crosses two block diagonals: both are kept, whatever the past, so each token pair of a kept
/// diagonal group is covered.
#[test]
fn kept_diagonals_are_covered() {
    for past in [0, 1, 32, 45] {
        let (q_len, b) = (190, 32);
        let shape = single(q_len, q_len + past, 1, 1, 16);
        // Queries repeat with a shift of 70 tokens: the strongest diagonal but the main one.
        let mut rng = Rng::new(5);
        let k = Tensor::<f32>::from_fn(Layout::thd(q_len + past, 1, 16), |_, _, _| {
            if rng.chance(0.5) { 2.0 } else { -2.0 }
        });
        let q = Tensor::<f32>::from_fn(Layout::thd(q_len, 1, 16), |t, _, d| {
            if t + past >= 70 { k.view().row(t + past - 70, 0)[d] as f64 * 2.0 } else { 0.0 }
        });
        let options =
            FlexPrefillOptions { block_size: b, min_budget: 64, gamma: 0.5, tau: 0.0, ..Default::default() };
        let found = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
        assert!(found.heads[0].unwrap().slash_blocks >= 2);
        for i in 0..q_len {
            if let Some(j) = (i + past).checked_sub(70) {
                let row = found.block_mask.row(0, 0, i / b);
                assert!(row.contains(&((j / b) as u32)), "past {past}: row {i} misses key {j}: {row:?}");
            }
        }
    }
}

/// A run of keys along the direction of all queries is kept by every row; one that only middle rows look for may go
/// unseen, since the probe is the last rows.
#[test]
fn finds_what_the_probe_looks_for() {
    let (len, block) = (640, 32);
    let shape = single(len, len, 1, 1, 16);
    let found = |looking: std::ops::Range<usize>| {
        let mut rng = Rng::new(1);
        let mut feature = |here: bool, d: usize| match d {
            0 if here => 8.0,
            0 => 0.0,
            _ => 0.3 * rng.normal(),
        };
        let thd = Layout::thd(len, 1, 16);
        let q = Tensor::<f32>::from_fn(thd, |t, _, d| feature(looking.contains(&t), d));
        let k = Tensor::<f32>::from_fn(thd, |t, _, d| feature((100..108).contains(&t), d));
        let options = FlexPrefillOptions {
            block_size: block,
            min_budget: 64,
            gamma: 0.1,
            tau: 0.0,
            ..Default::default()
        };
        let mask = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap().block_mask;
        (3..20).filter(|&m| mask.row(0, 0, m).contains(&3)).count()
    };
    assert_eq!(found(0..len), 17);
    assert!(found(200..400) < 10);
}

#[test]
fn nan_stays_harmless() {
    let shape = single(200, 230, 2, 1, 8);
    let mut rng = Rng::new(0);
    let (mut q, mut k) =
        (Tensor::<f32>::random(&mut rng, 200, 2, 8), Tensor::<f32>::random(&mut rng, 230, 1, 8));
    q.poison(190..191);
    k.poison(7..9);
    for compat in [FlexPrefillCompat::default(), FlexPrefillCompat::ORIGINAL] {
        let options =
            FlexPrefillOptions { block_size: 32, min_budget: 32, tau: 0.5, compat, ..Default::default() };
        assert!(flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap().block_mask.is_complete());
    }
}

/// Flat attention: map row `r` holds `r + 1` times `1 / (r + 1)`, so that the prefix sums are known.
#[test]
fn query_aware_blocks_stop_before_the_crossing_one() {
    let shape = single(256, 256, 1, 1, 4);
    let zeros = vec![0.0f32; 256 * 4];
    let x = TensorView::thd(&zeros, 256, 1, 4).unwrap();
    let rows = |qa_only| {
        let options = FlexPrefillOptions {
            gamma: 0.45,
            tau: 1.0,
            block_size: 32,
            min_budget: 64,
            qa_only,
            ..Default::default()
        };
        let found = flex_prefill(&shape, &x, &x, &options).unwrap();
        let report = found.heads[0].unwrap();
        assert_eq!((report.query_aware, report.vertical_blocks, report.slash_blocks), (true, 2, 2));
        (0..8).map(|m| found.block_mask.row(0, 0, m).to_vec()).collect::<Vec<_>>()
    };
    // Of 8 x 0.45 = 3.6, rows 0 to 2 make 3, and row 3 adds quarters up to 3.5. The rest holds what is forced.
    let mut want = vec![vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 3]];
    want.extend((4..8).map(|m| vec![0, m]));
    assert_eq!(rows(true), want);
    // United with two columns and the diagonals of offsets 0 to 63.
    for (m, want) in want.iter_mut().enumerate() {
        want.extend((0..=m as u32).filter(|&n| n < 2 || n + 2 >= m as u32));
        want.sort_unstable();
        want.dedup();
    }
    assert_eq!(rows(false), want);
}

/// In `f32` the published roundings change next to nothing.
#[test]
fn rounding_to_f32_is_no_rounding() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = single(rng.range(100..=200), 200, 2, 1, 8);
        let mut options = FlexPrefillOptions { compat: Default::default(), ..random_options(&mut rng) };
        let mut random = |tokens: usize, heads: usize| Tensor::<f32>::random(&mut rng, tokens, heads, 8);
        let (q, k) = (random(shape.seqlens.total_q(), 2), random(200, 1));
        let bounds = flex_prefill_bounds(&shape, &q.view(), &k.view(), &options, MaskBounds::EPS).unwrap();
        options.compat.probe_round = true;
        let rounded = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
        bounds.assert_contain(&rounded.block_mask, &case!(seed, "{shape:?} {options:?}"));
    }
}
