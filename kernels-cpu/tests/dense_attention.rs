//! Dense attention against the reference, on every instruction set.

mod common;

use common::{Inputs, on_every_isa};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Element, Layout, Seqlens, TensorView, TensorViewMut};
use lacuna_kernels_cpu::dense_attention::Plan;
use lacuna_reference::case;
use lacuna_reference::testing::{self, HEAD_DIMS, LENGTHS, Number, Rng, ShapeLimits, Tensor};

fn run<T: Element>(
    inputs: &Inputs<T>,
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> (Vec<T>, Vec<f32>) {
    inputs.run(shape, |q, k, v, out, lse| Plan::new(shape, options)?.run(q, k, v, out, lse))
}

fn random_options(rng: &mut Rng) -> AttentionOptions {
    AttentionOptions {
        causal: rng.chance(0.7),
        softmax_scale: *rng.choose(&[None, None, None, Some(0.5), Some(-0.1), Some(0.0)]),
        gqa_interleave: rng.chance(0.3),
    }
}

fn seeded<T: Element + Number>() {
    let limits = ShapeLimits {
        max_tokens: 200,
        max_batch: 2,
        max_heads_k: 2,
        head_dims: &HEAD_DIMS,
        ..Default::default()
    };
    for seed in testing::seeds(8) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let inputs = Inputs::<T>::random(&mut rng, &shape);
        let expected = inputs.expect(&shape, &options, |_, _, _, _| true);
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {shape:?} {options:?}");
            expected.assert(&run(&inputs, &shape, &options), &case);
        });
    }
}

#[test]
fn seeded_shapes_f32() {
    seeded::<f32>();
}

#[test]
fn seeded_shapes_bf16() {
    seeded::<bf16>();
}

#[test]
fn seeded_shapes_f16() {
    seeded::<f16>();
}

#[test]
fn known_troublesome_lengths() {
    for (seed, &(seqlen_q, seqlen_k)) in LENGTHS.iter().enumerate() {
        let mut rng = Rng::new(seed as u64);
        let seqlens = Seqlens::single(seqlen_q, seqlen_k).unwrap();
        let shape = AttentionShape::new(2, 1, *rng.choose(&[32, 64]), seqlens).unwrap();
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let options = AttentionOptions::default();
        let expected = inputs.expect(&shape, &options, |_, _, _, _| true);
        on_every_isa(|isa| {
            let case = case!(seed as u64, "{isa:?} {seqlen_q} x {seqlen_k}");
            expected.assert(&run(&inputs, &shape, &options), &case);
        });
    }
}

#[test]
fn small_integers_and_one_hot_weights_are_exact() {
    for seed in testing::seeds(4) {
        let mut rng = Rng::new(seed);
        let (seqlen_q, seqlen_k) = (rng.range(1..=150), rng.range(150..=300));
        let seqlens = Seqlens::single(seqlen_q, seqlen_k).unwrap();
        let shape = AttentionShape::new(4, 2, 64, seqlens).unwrap();
        let past = seqlen_k - seqlen_q;
        let (q, k, chosen) =
            Tensor::<bf16>::one_hot(&mut rng, seqlen_q, seqlen_k, 4, 2, 64, |i| i + past + 1);
        let inputs = Inputs { q, k, v: Tensor::sparse_integers(&mut rng, seqlen_k, 2, 64) };
        let want: Vec<bf16> = (0..seqlen_q)
            .flat_map(|i| (0..4).map(move |h| (i, h)))
            .flat_map(|(i, h)| inputs.v.view().row(chosen[i], h / 2).to_vec())
            .collect();
        // With all logits 0 every visible key has the same weight, and sums of small integers are exact.
        let flat = AttentionOptions { softmax_scale: Some(0.0), causal: false, ..Default::default() };
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {shape:?}");
            let (out, _) = run(&inputs, &shape, &AttentionOptions::default());
            testing::assert_bits(&out, &want, &case);
            let (out, lse) = run(&inputs, &shape, &flat);
            for (at, x) in out.iter().enumerate() {
                let (h, d) = (at / 64 % 4, at % 64);
                let sum: f32 = (0..seqlen_k).map(|j| inputs.v.view().row(j, h / 2)[d].to_f32()).sum();
                assert_eq!(*x, bf16::from_f32(sum / seqlen_k as f32), "{case}");
            }
            assert!(lse.iter().all(|x| (x - (seqlen_k as f32).ln()).abs() < 1e-6), "{case}");
        });
    }
}

#[test]
fn rows_that_see_nothing_are_zero_and_unseen_poison_stays_unseen() {
    // Sequence 0: more queries than keys. Sequence 1: no keys. Sequence 2: no queries. Sequence 3: a past.
    let seqlens = Seqlens::new(vec![0, 40, 47, 47, 87], vec![0, 23, 23, 60, 140]).unwrap();
    let shape = AttentionShape::new(2, 1, 40, seqlens).unwrap();
    for seed in testing::seeds(2) {
        fn check<T: Element + Number>(seed: u64, shape: &AttentionShape) {
            let mut inputs = Inputs::<T>::random(&mut Rng::new(seed), shape);
            let options = AttentionOptions::default();
            // Keys 100 on are seen by row 0 of sequence 3 on; token 139 by the last row alone.
            let clean = Inputs { q: inputs.q.clone(), k: inputs.k.clone(), v: inputs.v.clone() };
            inputs.k.poison(139..140);
            inputs.v.poison(139..140);
            inputs.k.poison(23..60);
            inputs.v.poison(23..60);
            on_every_isa(|isa| {
                let case = case!(seed, "{isa:?} {:?}", T::DTYPE);
                let (out, lse) = run(&inputs, shape, &options);
                let (want, want_lse) = run(&clean, shape, &options);
                let row = 2 * shape.head_dim;
                assert!(out[..17 * row].iter().all(|x| x.to_f64() == 0.0), "{case}");
                assert!(out[40 * row..47 * row].iter().all(|x| x.to_f64() == 0.0), "{case}");
                for h in 0..2 {
                    let lse = &lse[h * 87..][..87];
                    assert!(lse[..17].iter().chain(&lse[40..47]).all(|&x| x == f32::NEG_INFINITY), "{case}");
                    assert!(lse[86].is_nan(), "{case}");
                    assert_eq!(lse[17..40], want_lse[h * 87..][17..40]);
                }
                assert!(out[86 * row..].iter().all(|x| x.to_f64().is_nan()), "{case}");
                // Rows that share a tile of keys with the poison take the careful path: other bits, same numbers.
                let want: Vec<f64> = want[..86 * row].iter().map(|x| x.to_f64()).collect();
                let tolerance = testing::Tolerance::absolute(if size_of::<T>() == 4 { 1e-6 } else { 1.6e-2 });
                testing::assert_close(&out[..86 * row], &want, tolerance, &case);
            });
        }
        check::<f32>(seed, &shape);
        check::<bf16>(seed, &shape);
        check::<f16>(seed, &shape);
    }
}

#[test]
fn every_layout_gives_the_same_bits() {
    let mut rng = Rng::new(7);
    let (batch, seqlen, heads, dim) = (2, 70, 4, 48);
    let shape =
        AttentionShape::new(heads, heads, dim, Seqlens::uniform(batch, seqlen, seqlen).unwrap()).unwrap();
    let inputs = Inputs::<bf16>::random(&mut rng, &shape);
    let options = AttentionOptions::default();
    let (want, _) = run(&inputs, &shape, &options);
    let relayout = |tensor: &Tensor<bf16>, layout: Layout| {
        Tensor::<bf16>::from_fn(layout, |t, h, d| tensor.view().row(t, h)[d].to_f64())
    };
    for layout in [Layout::bshd(batch, seqlen, heads, dim), Layout::bhsd(batch, heads, seqlen, dim)] {
        let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|t| relayout(t, layout));
        let mut out = Tensor::<bf16>::from_fn(layout, |_, _, _| f64::NAN);
        let mut plan = Plan::new(&shape, &options).unwrap();
        plan.run(&q.view(), &k.view(), &v.view(), &mut out.view_mut(), None).unwrap();
        testing::assert_bits(&out.to_vec(), &want, &case!(7, "{layout:?}"));
    }
}

#[test]
fn a_row_does_not_depend_on_the_batch_the_heads_or_the_threads() {
    for seed in testing::seeds(3) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 300, ..Default::default() });
        let options = random_options(&mut rng);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {shape:?}");
            let (out, lse) = run(&inputs, &shape, &options);
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let again = pool.install(|| isa.scope(|| run(&inputs, &shape, &options)));
                testing::assert_bits(&again.0, &out, &case);
                testing::assert_bits(&again.1, &lse, &case);
            }
            for b in 0..shape.seqlens.batch() {
                let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
                let head = rng.below(shape.num_heads);
                let head_k = shape.head_k(head, options.gqa_interleave);
                let one = AttentionShape::new(
                    1,
                    1,
                    shape.head_dim,
                    Seqlens::single(q_range.len(), k_range.len()).unwrap(),
                )
                .unwrap();
                let alone = Inputs {
                    q: inputs.q.tokens(q_range.clone()).heads(&[head]),
                    k: inputs.k.tokens(k_range.clone()).heads(&[head_k]),
                    v: inputs.v.tokens(k_range).heads(&[head_k]),
                };
                let (out_alone, lse_alone) = run(&alone, &one, &options);
                let dim = shape.head_dim;
                let rows = q_range.clone().map(|t| &out[(t * shape.num_heads + head) * dim..][..dim]);
                let want: Vec<bf16> = rows.flatten().copied().collect();
                testing::assert_bits(&out_alone, &want, &case);
                let total_q = shape.seqlens.total_q();
                testing::assert_bits(&lse_alone, &lse[head * total_q..][q_range], &case);
            }
        });
    }
}

#[test]
fn a_plan_runs_again_and_refuses_other_shapes() {
    let mut rng = Rng::new(3);
    let shape = AttentionShape::new(4, 2, 32, Seqlens::single(50, 90).unwrap()).unwrap();
    let inputs = Inputs::<f32>::random(&mut rng, &shape);
    let mut plan = Plan::new(&shape, &AttentionOptions::default()).unwrap();
    let first = inputs.run(&shape, |q, k, v, out, lse| plan.run(q, k, v, out, lse));
    // Poisoned keys of an earlier call leave nothing behind.
    let mut poisoned = Inputs { q: inputs.q.clone(), k: inputs.k.clone(), v: inputs.v.clone() };
    poisoned.k.poison(0..90);
    poisoned.v.poison(0..90);
    let nan = poisoned.run(&shape, |q, k, v, out, lse| plan.run(q, k, v, out, lse));
    assert!(nan.0.iter().chain(&nan.1).all(|x| x.is_nan()));
    let second = inputs.run(&shape, |q, k, v, out, lse| plan.run(q, k, v, out, lse));
    assert_eq!(first, second);

    let data = vec![0.0f32; 100 * 4 * 32];
    let (q, k) = (TensorView::thd(&data, 50, 4, 32).unwrap(), TensorView::thd(&data, 90, 2, 32).unwrap());
    let short = TensorView::thd(&data, 89, 2, 32).unwrap();
    let mut out = vec![0.0f32; 50 * 4 * 32];
    let mut out = TensorViewMut::thd(&mut out, 50, 4, 32).unwrap();
    for (q, k, v, lse, arg) in [
        (&k, &k, &k, 200, "q"),
        (&q, &short, &k, 200, "k"),
        (&q, &k, &short, 200, "v"),
        (&q, &k, &k, 199, "lse"),
    ] {
        let why = plan.run(q, k, v, &mut out, Some(&mut vec![0.0; lse])).unwrap_err().to_string();
        assert!(why.starts_with("dense_attention: ") && why.contains(arg), "{why}");
    }
    let nan = AttentionOptions { softmax_scale: Some(f32::NAN), ..Default::default() };
    assert!(Plan::<f32>::new(&shape, &nan).is_err());
    let huge = Seqlens::single(u32::MAX as usize, u32::MAX as usize).unwrap();
    let huge = AttentionShape::new(usize::MAX / 2, 1, 256, huge).unwrap();
    assert!(Plan::<f32>::new(&huge, &AttentionOptions::default()).is_err());
}

#[test]
fn infinities_neither_panic_nor_leak() {
    let shape = AttentionShape::new(1, 1, 16, Seqlens::single(40, 40).unwrap()).unwrap();
    let mut rng = Rng::new(11);
    let inputs = Inputs::<f32>::random(&mut rng, &shape);
    for x in [f64::INFINITY, f64::NEG_INFINITY, 3e38] {
        let bad = |t: &Tensor<f32>, token: usize| {
            Tensor::<f32>::from_fn(Layout::thd(40, 1, 16), |i, h, d| {
                if i == token { x } else { t.view().row(i, h)[d].to_f64() }
            })
        };
        on_every_isa(|_| {
            let options = AttentionOptions::default();
            let (want, _) = run(&inputs, &shape, &options);
            let k = Inputs { q: inputs.q.clone(), k: bad(&inputs.k, 20), v: bad(&inputs.v, 20) };
            let (out, _) = run(&k, &shape, &options);
            assert!(out[..20 * 16].iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6));
            let q = Inputs { q: bad(&inputs.q, 20), k: inputs.k.clone(), v: inputs.v.clone() };
            let (out, _) = run(&q, &shape, &options);
            assert_eq!(out[..20 * 16], want[..20 * 16]);
            assert_eq!(out[21 * 16..], want[21 * 16..]);
        });
    }
}
