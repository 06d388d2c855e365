//! The contracts of the crate's documentation, through the public interface.

use lacuna::{
    AttentionOptions, AttentionShape, BlockMask, DecodeShape, Device, Element, Error, FlexPrefillOptions,
    Layout, Pattern, Report, Selection, Seqlens, TensorView, TensorViewMut, Threshold, VerticalSlashOptions,
    XAttentionOptions, block_sparse_attention, decode_attention, dense_attention, pattern, prefill,
};
use lacuna_reference as reference;
use proptest::prelude::*;

/// Every pattern, small enough that none of them falls back to dense at a few hundred tokens.
fn patterns() -> Vec<Pattern> {
    vec![
        Pattern::Dense,
        Pattern::FlexPrefill(FlexPrefillOptions { min_budget: 64, block_size: 32, ..Default::default() }),
        Pattern::XAttention(XAttentionOptions {
            threshold: Threshold::Scalar(0.7),
            block_size: 32,
            ..Default::default()
        }),
        Pattern::VerticalSlash(VerticalSlashOptions {
            vertical_size: 40,
            slash_size: 60,
            recent: 20,
            ..Default::default()
        }),
        Pattern::AShape(pattern::AShapeOptions { n_init: 20, n_local: 90, block_size: 32 }),
        Pattern::TriShape(pattern::TriShapeOptions { n_init: 20, n_local: 90, n_last: 50, block_size: 32 }),
        Pattern::SinkAndLocal(pattern::SinkAndLocalOptions {
            global_window: 33,
            local_window: 64,
            block_size: 32,
        }),
        Pattern::BlockDiagonal(pattern::BlockDiagonalOptions { chunk_size: 100, block_size: 32 }),
    ]
}

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((x >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
        })
        .collect()
}

struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(seed: u64, heads: usize, heads_k: usize, head_dim: usize, seqlens: Seqlens) -> Self {
        let (total_q, total_k) = (seqlens.total_q(), seqlens.total_k());
        let shape = AttentionShape::new(heads, heads_k, head_dim, seqlens).unwrap();
        Self {
            shape,
            q: random(seed, total_q * heads * head_dim),
            k: random(seed + 1, total_k * heads_k * head_dim),
            v: random(seed + 2, total_k * heads_k * head_dim),
        }
    }

    fn views(&self) -> [TensorView<'_, f32>; 3] {
        let s = &self.shape;
        [
            TensorView::thd(&self.q, s.seqlens.total_q(), s.num_heads, s.head_dim).unwrap(),
            TensorView::thd(&self.k, s.seqlens.total_k(), s.num_heads_k, s.head_dim).unwrap(),
            TensorView::thd(&self.v, s.seqlens.total_k(), s.num_heads_k, s.head_dim).unwrap(),
        ]
    }

    /// Out and LSE start as NaN: what is not written shows.
    fn run(&self, pattern: &Pattern) -> (Vec<f32>, Vec<f32>, Report) {
        let s = &self.shape;
        let mut out = vec![f32::NAN; self.q.len()];
        let mut lse = vec![f32::NAN; s.num_heads * s.seqlens.total_q()];
        let [q, k, v] = self.views();
        let mut plan = prefill::Plan::new(Device::Cpu, s, &AttentionOptions::default(), pattern).unwrap();
        let report = plan
            .run(
                &q,
                &k,
                &v,
                &mut TensorViewMut::thd(&mut out, s.seqlens.total_q(), s.num_heads, s.head_dim).unwrap(),
                Some(&mut lse),
            )
            .unwrap();
        (out, lse, report)
    }
}

/// Sequence `b` of a batch, alone.
fn alone(case: &Case, b: usize) -> Case {
    let s = &case.shape;
    let seqlens = Seqlens::single(s.seqlens.seqlen_q(b), s.seqlens.seqlen_k(b)).unwrap();
    let cut = |x: &[f32], range: std::ops::Range<usize>, heads: usize| {
        x[range.start * heads * s.head_dim..range.end * heads * s.head_dim].to_vec()
    };
    Case {
        q: cut(&case.q, s.seqlens.q_range(b), s.num_heads),
        k: cut(&case.k, s.seqlens.k_range(b), s.num_heads_k),
        v: cut(&case.v, s.seqlens.k_range(b), s.num_heads_k),
        shape: AttentionShape::new(s.num_heads, s.num_heads_k, s.head_dim, seqlens).unwrap(),
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_ragged_batch_equals_its_sequences_alone_to_the_bit_under_every_pattern() {
    // No past, no queries, a past of 77, one query over 350 keys.
    let seqlens = Seqlens::new(vec![0, 300, 300, 420, 421], vec![0, 300, 350, 547, 897]).unwrap();
    let case = Case::new(11, 4, 2, 64, seqlens);
    let total_q = case.shape.seqlens.total_q();
    for pattern in patterns() {
        let (out, lse, _) = case.run(&pattern);
        for b in 0..case.shape.seqlens.batch() {
            let (want_out, want_lse, _) = alone(&case, b).run(&pattern);
            let rows = case.shape.seqlens.q_range(b);
            let got = &out[rows.start * 4 * 64..rows.end * 4 * 64];
            assert_eq!(bits(got), bits(&want_out), "{} sequence {b}", pattern.name());
            for h in 0..4 {
                let got = &lse[h * total_q + rows.start..h * total_q + rows.end];
                let want = &want_lse[h * rows.len()..(h + 1) * rows.len()];
                assert_eq!(bits(got), bits(want), "{} sequence {b} head {h}", pattern.name());
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_under_any_pattern() {
    let case = Case::new(5, 4, 1, 32, Seqlens::single(400, 477).unwrap());
    for pattern in patterns() {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.run(&pattern))
        };
        let ((out_1, lse_1, one), (out_3, lse_3, three)) = (with(1), with(3));
        assert_eq!(bits(&out_1), bits(&out_3), "{}", pattern.name());
        assert_eq!(bits(&lse_1), bits(&lse_3), "{}", pattern.name());
        assert_eq!(one.density, three.density);
    }
}

#[test]
fn layouts_are_views_of_the_same_tensor() {
    let (batch, tokens, heads, head_dim) = (2, 70, 4, 48);
    let seqlens = Seqlens::uniform(batch, tokens, tokens).unwrap();
    let case = Case::new(3, heads, heads, head_dim, seqlens);
    let (want, want_lse, _) = case.run(&Pattern::Dense);

    // The same numbers as [batch, heads, tokens, head_dim].
    let to = Layout::bhsd(batch, heads, tokens, head_dim);
    let transpose = |x: &[f32]| {
        let from = TensorView::bshd(x, batch, tokens, heads, head_dim).unwrap();
        let mut y = vec![0.0; x.len()];
        let mut view = TensorViewMut::new(&mut y, to).unwrap();
        for t in 0..batch * tokens {
            for h in 0..heads {
                view.row_mut(t, h).copy_from_slice(from.row(t, h));
            }
        }
        y
    };
    let (q, k, v) = (transpose(&case.q), transpose(&case.k), transpose(&case.v));
    let mut out = vec![f32::NAN; want.len()];
    let mut lse = vec![f32::NAN; want_lse.len()];
    let mut plan =
        dense_attention::Plan::new(Device::Cpu, &case.shape, &AttentionOptions::default()).unwrap();
    plan.run(
        &TensorView::new(&q, to).unwrap(),
        &TensorView::new(&k, to).unwrap(),
        &TensorView::new(&v, to).unwrap(),
        &mut TensorViewMut::new(&mut out, to).unwrap(),
        Some(&mut lse),
    )
    .unwrap();
    assert_eq!(bits(&out), bits(&transpose(&want)));
    assert_eq!(bits(&lse), bits(&want_lse));
}

#[test]
fn every_pattern_reports_the_density_of_what_it_chose() {
    let case = Case::new(8, 2, 1, 64, Seqlens::single(500, 500).unwrap());
    let [q, k, _] = case.views();
    for pattern in patterns() {
        let (_, _, report) = case.run(&pattern);
        let mut plan = pattern::Plan::new(&case.shape, &AttentionOptions::default(), &pattern).unwrap();
        assert_eq!(report.density, plan.search(&q, &k).unwrap().density(true), "{}", pattern.name());
        // The least number of slashes, 64 keys each, covers 500 tokens without a pattern wholly.
        let may_be_full = matches!(pattern, Pattern::Dense | Pattern::VerticalSlash(_));
        assert!(report.density < 1.0 || may_be_full, "{} keeps {}", pattern.name(), report.density);
        assert!(report.density > 0.0, "{} keeps {}", pattern.name(), report.density);
    }
}

#[test]
fn bad_input_gets_a_sentence() {
    let case = Case::new(1, 4, 2, 32, Seqlens::single(200, 200).unwrap());
    let options = AttentionOptions::default();
    let refused = |pattern: Pattern| {
        prefill::Plan::<f32>::new(Device::Cpu, &case.shape, &options, &pattern).err().unwrap().to_string()
    };
    for (pattern, says) in [
        (
            Pattern::FlexPrefill(FlexPrefillOptions { gamma: 2.0, ..Default::default() }),
            "gamma must be in (0, 1], got 2",
        ),
        (Pattern::FlexPrefill(FlexPrefillOptions { gamma: f32::NAN, ..Default::default() }), "got NaN"),
        (
            Pattern::FlexPrefill(FlexPrefillOptions { block_size: 0, ..Default::default() }),
            "block_size must be one of",
        ),
        (
            Pattern::XAttention(XAttentionOptions { stride: 7, ..Default::default() }),
            "stride must be a positive divisor of block_size (128), got 7",
        ),
        (
            Pattern::XAttention(XAttentionOptions {
                threshold: Threshold::PerHead(vec![0.5; 3]),
                ..Default::default()
            }),
            "threshold must have shape [4], got [3]",
        ),
        (
            Pattern::BlockDiagonal(pattern::BlockDiagonalOptions { chunk_size: 0, block_size: 128 }),
            "chunk must be at least 1",
        ),
        (
            Pattern::AShape(pattern::AShapeOptions { block_size: 0, ..Default::default() }),
            "block_m must be at least 1",
        ),
    ] {
        let message = refused(pattern);
        assert!(message.contains(says), "{message}");
    }

    let mut bad = Case::new(1, 4, 2, 32, Seqlens::single(200, 200).unwrap());
    bad.q[(17 * 4 + 3) * 32 + 5] = f32::NAN;
    let [q, k, v] = bad.views();
    let mut out = vec![0.0f32; bad.q.len()];
    for pattern in patterns() {
        let mut plan = prefill::Plan::new(Device::Cpu, &bad.shape, &options, &pattern).unwrap();
        let mut out = TensorViewMut::thd(&mut out, 200, 4, 32).unwrap();
        let error = plan.run(&q, &k, &v, &mut out, None).unwrap_err();
        assert!(
            matches!(error, Error::NotFinite { arg: "q", token: 17, head: 3, .. }),
            "{}: {error}",
            pattern.name()
        );
    }

    let short = vec![0.0f32; 10];
    assert!(TensorView::thd(&short, 4, 2, 32).unwrap_err().to_string().contains("at least 256 elements"));
    assert!(TensorView::thd(&short, usize::MAX, 2, 32).is_err());
    assert!(AttentionShape::new(6, 4, 64, Seqlens::single(1, 1).unwrap()).is_err());
    assert!(Seqlens::new(vec![0, 5, 3], vec![0, 1, 2]).unwrap_err().to_string().contains("ascending"));
    let mut plan = dense_attention::Plan::new(Device::Cpu, &case.shape, &options).unwrap();
    let [q, _, _] = case.views();
    let error = plan.run(&q, &q, &q, &mut TensorViewMut::thd(&mut out, 200, 4, 32).unwrap(), None);
    assert!(error.unwrap_err().to_string().contains("k must have shape [200, 2, 32], got [200, 4, 32]"));
}

#[test]
fn keys_that_no_row_sees_may_hold_anything() {
    // Query rows end at key 150: the padding of a cache behind it is NaN and must not be read.
    let mut case = Case::new(2, 2, 1, 64, Seqlens::single(3, 150).unwrap());
    let (want, want_lse, _) = case.run(&Pattern::Dense);
    case.k.resize(200 * 64, f32::NAN);
    case.v.resize(200 * 64, f32::NAN);
    let mut out = vec![f32::NAN; case.q.len()];
    let mut lse = vec![f32::NAN; 2 * 3];
    let shape = DecodeShape {
        batch: 1,
        max_seqlen_q: 3,
        num_heads: 2,
        num_heads_k: 1,
        head_dim: 64,
        max_seqlen_k: 200,
    };
    let mut plan = decode_attention::Plan::new(Device::Cpu, &shape, &AttentionOptions::default()).unwrap();
    plan.run(
        &TensorView::bshd(&case.q, 1, 3, 2, 64).unwrap(),
        &TensorView::bshd(&case.k, 1, 200, 1, 64).unwrap(),
        &TensorView::bshd(&case.v, 1, 200, 1, 64).unwrap(),
        &[150],
        &mut TensorViewMut::bshd(&mut out, 1, 3, 2, 64).unwrap(),
        Some(&mut lse),
    )
    .unwrap();
    for (got, want) in out.iter().chain(&lse).zip(want.iter().chain(&want_lse)) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The attention under any pattern is the reference's over the same selection.
    #[test]
    fn prefill_equals_the_reference_over_what_the_pattern_chose(
        seed in 0u64..1000, tokens in 1usize..330, past in 0usize..200, group in 1usize..4, heads_k in 1usize..3,
        head_dim in prop::sample::select(vec![16usize, 40, 64]), which in 0usize..8,
    ) {
        let seqlens = Seqlens::single(tokens, tokens + past).unwrap();
        let case = Case::new(seed, group * heads_k, heads_k, head_dim, seqlens);
        let pattern = &patterns()[which];
        let (out, lse, _) = case.run(pattern);
        let [q, k, v] = case.views();
        let options = AttentionOptions::default();
        let mut plan = pattern::Plan::new(&case.shape, &options, pattern).unwrap();
        let shape = &case.shape;
        let want = match plan.search(&q, &k).unwrap() {
            Selection::Blocks(block_mask) => {
                reference::block_sparse_attention(shape, &q, &k, &v, block_mask, &options)
            }
            Selection::VerticalSlash(index) => {
                reference::vertical_slash_attention(shape, &q, &k, &v, index, &options)
            }
            _ => reference::dense_attention(shape, &q, &k, &v, &options),
        }
        .unwrap();
        for (i, (got, want)) in out.iter().zip(&want.out).enumerate() {
            prop_assert!((*got as f64 - want).abs() <= 2e-5, "out {i}: {got} for {want}, {}", pattern.name());
        }
        for (i, (got, want)) in lse.iter().zip(&want.softmax_lse).enumerate() {
            prop_assert!(*got as f64 == *want || (*got as f64 - want).abs() <= 1e-4, "lse {i}: {got} for {want}");
        }
    }
}

#[test]
fn a_full_mask_is_dense_and_a_sparse_plan_of_any_element_runs() {
    fn run<T: Element>() {
        let shape = AttentionShape::new(2, 1, 64, Seqlens::single(130, 130).unwrap()).unwrap();
        let x: Vec<T> = random(9, 130 * 2 * 64).into_iter().map(T::from_f32).collect();
        let q = TensorView::thd(&x, 130, 2, 64).unwrap();
        let k = TensorView::thd(&x, 130, 1, 64).unwrap();
        let options = AttentionOptions::default();
        let (mut a, mut b) = (vec![T::default(); x.len()], vec![T::default(); x.len()]);
        let mut dense = dense_attention::Plan::new(Device::Cpu, &shape, &options).unwrap();
        dense.run(&q, &k, &k, &mut TensorViewMut::thd(&mut a, 130, 2, 64).unwrap(), None).unwrap();
        let full = BlockMask::dense(&shape, 32, 32, true).unwrap();
        let mut sparse = block_sparse_attention::Plan::new(Device::Cpu, &shape, &options, 32, 32).unwrap();
        sparse.run(&q, &k, &k, &full, &mut TensorViewMut::thd(&mut b, 130, 2, 64).unwrap(), None).unwrap();
        for (a, b) in a.iter().zip(&b) {
            let (a, b) = (a.to_f32(), b.to_f32());
            assert!((a - b).abs() <= 0.01 * a.abs().max(1.0), "{} {a} {b}", T::DTYPE);
        }
    }
    run::<f32>();
    run::<half::bf16>();
    run::<half::f16>();
}
