//! FlexPrefill's search against the reference, the published results and its own promises.

use half::{bf16, f16};
use lacuna_core::{
    AttentionShape, BlockMask, Element, Error, FlexPrefillCompat, FlexPrefillOptions, Layout, Seqlens,
    TensorView,
};
use lacuna_kernels_cpu::flex_prefill::{HeadReport, Plan};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Case, MaskBounds, Rng, ShapeLimits, Tensor, edge_lengths, golden, seeds};
use lacuna_reference::{case, flex_prefill, flex_prefill_bounds};

fn single(q: usize, k: usize, heads: usize, heads_k: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

fn search<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &FlexPrefillOptions,
) -> (BlockMask, Vec<HeadReport>) {
    let mut plan = Plan::new(shape, options).unwrap();
    let mask = plan.search(q, k).unwrap().clone();
    (mask, plan.heads().to_vec())
}

#[test]
fn golden_table_of_the_published_code() {
    let (shape, q, k) = golden::inputs(2, 1);
    for isa in Isa::available() {
        for row in golden::FLEX_PREFILL {
            let (mask, heads) = isa.scope(|| search(&shape, &q.view(), &k.view(), &row.options()));
            let report = heads[row.head];
            let says = format!("{isa:?}, {row:?}: {report:?}");
            assert!(!report.dense && report.query_aware == row.query_aware, "{says}");
            assert_eq!(
                (report.vertical_blocks, report.slash_blocks),
                (row.vertical_blocks, row.slash_blocks),
                "{says}"
            );
            assert!((report.sqrt_jsd as f64 - row.sqrt_jsd).abs() < 1e-6, "{says}");
            assert_eq!(golden::flat_blocks(&mask, row.head), row.blocks(), "{says}");
        }
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
        softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2)]),
        gqa_interleave: rng.chance(0.5),
        qa_only: rng.chance(0.5),
        compat,
    }
}

/// Queries and keys with a few strong columns, so that heads differ in kind.
fn random_input<T: Element>(
    rng: &mut Rng,
    shape: &AttentionShape,
    strength: f64,
    strided: bool,
) -> (Tensor<T>, Tensor<T>) {
    let mut spiky = |tokens: usize, heads: usize, always: bool| {
        let mut layout = Layout::thd(tokens, heads, shape.head_dim);
        if strided {
            (layout.token_stride, layout.head_stride) =
                (shape.head_dim + 3, tokens * (shape.head_dim + 3) + 5);
        }
        Tensor::from_fn(layout, |t, h, d| {
            let spike = d == h % shape.head_dim && (always || t % 23 == h);
            rng.normal() + if spike { strength } else { 0.0 }
        })
    };
    let q = spiky(shape.seqlens.total_q(), shape.num_heads, true);
    (q, spiky(shape.seqlens.total_k(), shape.num_heads_k, false))
}

fn against_reference<T: Element>(seed: u64) {
    let mut rng = Rng::new(seed);
    let limits = ShapeLimits { max_tokens: 260, head_dims: &[16, 32, 40, 59, 64], ..Default::default() };
    let shape = rng.shape(&limits);
    let mut options = random_options(&mut rng);
    // Rounding to 16 bits amplifies the last bit of an f32 sum to one in 256.
    options.compat.probe_round &= size_of::<T>() == 4;
    let strength = *rng.choose(&[0.0, 1.0, 3.0]);
    let strided = rng.chance(0.5);
    let (q, k) = random_input::<T>(&mut rng, &shape, strength, strided);
    let case = case!(seed, "{} {shape:?} {options:?}", T::DTYPE);
    let want = flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
    let bounds = flex_prefill_bounds(&shape, &q.view(), &k.view(), &options, MaskBounds::EPS).unwrap();
    for isa in Isa::available() {
        let (mask, heads) = isa.scope(|| search(&shape, &q.view(), &k.view(), &options));
        bounds.assert_contain(&mask, &case);
        assert_reports(&heads, &want.heads, &case);
    }
}

fn assert_reports(got: &[HeadReport], want: &[Option<lacuna_reference::FlexPrefillHead>], case: &Case) {
    assert_eq!(got.len(), want.len(), "{case}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.dense, want.is_none(), "{case}");
        if let Some(want) = want {
            let near = (got.sqrt_jsd as f64 - want.sqrt_jsd).abs() < 1e-3;
            assert!(
                near || (got.sqrt_jsd.is_nan() && (want.sqrt_jsd.is_nan() || want.sqrt_jsd < 1e-3)),
                "{got:?} {want:?}\n  repeat: {case}"
            );
        }
    }
}

#[test]
fn equals_the_reference_on_random_batches() {
    for seed in seeds(60) {
        match seed % 3 {
            0 => against_reference::<f32>(seed),
            1 => against_reference::<bf16>(seed),
            _ => against_reference::<f16>(seed),
        }
    }
}

/// Past lengths, block edges, and probes as long as a block of 128 and 256.
#[test]
fn equals_the_reference_at_real_block_sizes() {
    for (seed, (block_size, past)) in
        [(128, 0), (128, 1), (128, 128), (128, 777), (64, 64), (64, 777), (256, 0), (256, 5)]
            .into_iter()
            .enumerate()
    {
        let mut rng = Rng::new(seed as u64);
        let len = *rng.choose(&edge_lengths(block_size)[2..]);
        let shape = single(len, len + past, 4, 2, 64);
        let (q, k) = random_input::<bf16>(&mut rng, &shape, 2.0, false);
        let options =
            FlexPrefillOptions { block_size, min_budget: 128, tau: 0.2, gamma: 0.8, ..Default::default() };
        let case = case!(seed as u64, "{shape:?} {options:?}");
        let bounds = flex_prefill_bounds(&shape, &q.view(), &k.view(), &options, MaskBounds::EPS).unwrap();
        bounds.assert_contain(&search(&shape, &q.view(), &k.view(), &options).0, &case);
    }
}

#[test]
fn more_gamma_never_drops_a_block_and_all_of_it_is_dense() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 260, max_batch: 1, ..Default::default() });
        let (q, k) = random_input::<f32>(&mut rng, &shape, 2.0, false);
        let mut options = random_options(&mut rng);
        let case = case!(seed, "{shape:?} {options:?}");
        let mut last: Option<BlockMask> = None;
        for gamma in [0.1, 0.5, 0.9, 0.99, 1.0] {
            options.gamma = gamma;
            let (mask, _) = search(&shape, &q.view(), &k.view(), &options);
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
        let dense = BlockMask::dense(&shape, options.block_size, options.block_size, true).unwrap();
        assert_eq!(last, Some(dense), "gamma 1 is not dense: {case}");
    }
}

/// Equal keys: every column and diagonal that the whole probe sees weighs exactly the same, whatever tile or chunk it
/// was summed in.
#[test]
fn ties_go_to_the_lowest_index() {
    for isa in Isa::available() {
        for (len, block_size) in [(256, 32), (4500, 128), (2500, 64)] {
            let shape = single(len, len, 1, 1, 16);
            let x = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 16), |_, _, d| 0.3 * d as f64 - 1.7);
            let options =
                FlexPrefillOptions { block_size, min_budget: 0, gamma: 0.4, tau: 0.0, ..Default::default() };
            let (mask, heads) = isa.scope(|| search(&shape, &x.view(), &x.view(), &options));
            let (nv, ns) = (heads[0].vertical_blocks, heads[0].slash_blocks);
            let blocks = len.div_ceil(block_size);
            assert!(nv > 1 && nv + 1 < blocks && ns > 1 && ns + 1 < blocks, "{heads:?}");
            for m in 0..blocks {
                let want: Vec<u32> = (0..=m).filter(|&n| n < nv || m - n <= ns).map(|n| n as u32).collect();
                assert_eq!(mask.row(0, 0, m), want, "{isa:?}, {len} tokens, row {m}");
            }
        }
    }
}

#[test]
fn does_not_depend_on_threads_or_on_the_batch() {
    let mut rng = Rng::new(7);
    let (cu_q, cu_k) = (vec![0, 700, 700, 2900, 2917], vec![0, 900, 950, 3150, 5200]);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap();
    let (q, k) = random_input::<bf16>(&mut rng, &shape, 2.0, false);
    // Sharp attention in every other head, that mean queries do not predict.
    let q = Tensor::from_fn(*q.view().layout(), |t, h, d| {
        q.view().row(t, h)[d].to_f64() * if h % 2 == 1 { 6.0 } else { 1.0 }
    });
    let options = FlexPrefillOptions { min_budget: 256, tau: 0.1, gamma: 0.7, ..Default::default() };
    let (mask, heads) = search(&shape, &q.view(), &k.view(), &options);
    assert!(
        heads.iter().any(|h| h.query_aware) && heads.iter().any(|h| !h.query_aware && !h.dense),
        "{heads:?}"
    );
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let alone = pool.install(|| search(&shape, &q.view(), &k.view(), &options));
        assert_eq!(alone, (mask.clone(), heads.clone()), "{threads} threads");
    }
    // A plan made on one pool may run on another.
    let mut plan = Plan::new(&shape, &options).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    assert_eq!(pool.install(|| plan.search(&q.view(), &k.view()).unwrap().clone()), mask);
    for b in 0..shape.seqlens.batch() {
        let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
        let of_one = single(q_range.len(), k_range.len(), 4, 2, 64);
        let (q, k) = (q.tokens(q_range), k.tokens(k_range));
        let (alone, alone_heads) = search(&of_one, &q.view(), &k.view(), &options);
        assert_eq!(alone_heads, heads[b * 4..(b + 1) * 4]);
        for h in 0..4 {
            for m in 0..mask.m_blocks(b) {
                assert_eq!(alone.row(0, h, m), mask.row(b, h, m));
            }
        }
    }
}

/// A run of keys along the queries' direction is found by every query block after it when all queries carry the
/// direction; not when only middle ones do, for the probe does not see them and looks elsewhere.
#[test]
fn finds_a_needle_the_probe_asks_for() {
    let (len, needle, other) = (2048, 640..656, 384..400);
    for (asking, found) in [(0..len, true), (1024..1280, false)] {
        let shape = single(len, len, 1, 1, 64);
        let mut rng = Rng::new(11);
        let q = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
            0.3 * rng.normal() + if d == usize::from(!asking.contains(&t)) { 8.0 } else { 0.0 }
        });
        let k = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
            let along = (d == 0 && needle.contains(&t)) || (d == 1 && other.contains(&t));
            0.3 * rng.normal() + if along { 12.0 } else { 0.0 }
        });
        let options = FlexPrefillOptions { min_budget: 256, gamma: 0.5, tau: 0.0, ..Default::default() };
        let (mask, _) = search(&shape, &q.view(), &k.view(), &options);
        let holds = (8..16).all(|m| mask.row(0, 0, m).contains(&5));
        assert_eq!(holds, found, "{asking:?}");
    }
}

#[test]
fn refuses_what_is_not_finite_and_only_what_it_reads() {
    let shape = single(300, 300, 2, 1, 16);
    let options = FlexPrefillOptions { block_size: 64, min_budget: 0, tau: 0.0, ..Default::default() };
    let mut rng = Rng::new(0);
    let mut random = |heads| Tensor::<f32>::random(&mut rng, 300, heads, 16);
    let (q, k) = (random(2), random(1));
    let run = |q: &Tensor<f32>, k: &Tensor<f32>, options: &FlexPrefillOptions| {
        Plan::new(&shape, options).unwrap().search(&q.view(), &k.view()).cloned()
    };
    let with = |x: &Tensor<f32>, token: usize, head: usize, value: f32| {
        let mut x = x.clone();
        x.view_mut().row_mut(token, head)[3] = value;
        x
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        match run(&q, &with(&k, 17, 0, value), &options) {
            Err(Error::NotFinite { arg: "k", token: 17, head: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
        match run(&with(&q, 299, 1, value), &k, &options) {
            Err(Error::NotFinite { arg: "q", token: 299, head: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
        // Queries before the probe matter to query-aware heads alone.
        assert!(run(&with(&q, 5, 1, value), &k, &options).is_ok());
        let aware = FlexPrefillOptions { tau: 1.0, ..options.clone() };
        match run(&with(&q, 5, 1, value), &k, &aware) {
            Err(Error::NotFinite { arg: "q", token: 5, head: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
        // A dense head reads nothing.
        let dense = FlexPrefillOptions { gamma: 1.0, ..options.clone() };
        assert!(run(&with(&q, 299, 1, value), &with(&k, 17, 0, value), &dense).is_ok());
    }
    // Finite values whose products are not.
    let huge = |x: &Tensor<f32>| Tensor::<f32>::from_fn(*x.view().layout(), |_, _, _| 1e30);
    assert!(run(&huge(&q), &huge(&k), &options).is_err());
}

#[test]
fn refuses_wrong_shapes_and_options() {
    let shape = single(300, 300, 2, 1, 16);
    assert!(Plan::<f32>::new(&shape, &FlexPrefillOptions { gamma: 0.0, ..Default::default() }).is_err());
    let data = vec![0.0f32; 300 * 2 * 16];
    let view = TensorView::thd(&data, 300, 2, 16).unwrap();
    let mut plan = Plan::new(&shape, &FlexPrefillOptions::default()).unwrap();
    assert!(plan.search(&view, &view).is_err());
}
