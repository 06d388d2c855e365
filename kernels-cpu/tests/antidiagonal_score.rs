//! XAttention's scores against the reference, the published results and the softmax itself.

use half::{bf16, f16};
use lacuna_core::{
    AttentionShape, Element, Error, Layout, Seqlens, TensorView, XAttentionCompat, XAttentionOptions,
};
use lacuna_kernels_cpu::antidiagonal_score::{BlockScores, Plan};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Lcg, Rng, ShapeLimits, Tensor, Tolerance, assert_close, seeds};
use lacuna_reference::{antidiagonal_score, case};

fn single(q: usize, k: usize, heads: usize, heads_k: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

fn score<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &XAttentionOptions,
    causal: bool,
) -> BlockScores {
    Plan::new(shape, options, causal).unwrap().run(q, k).unwrap().clone()
}

#[test]
fn golden_scores_of_the_published_code() {
    let fill = |seed: u32| -> Vec<f32> {
        let mut lcg = Lcg::new(seed);
        (0..1000 * 2 * 16).map(|_| lcg.next_f32() * 4.0).collect()
    };
    let (mut q, mut k) = (fill(1), fill(2));
    (0..1000).for_each(|t| q[t * 32] += 3.0);
    (0..8).for_each(|row| k[row * 16] += 8.0);
    let shape = single(1000, 1000, 2, 2, 16);
    let (q, k) = (TensorView::thd(&q, 1000, 2, 16).unwrap(), TensorView::thd(&k, 1000, 2, 16).unwrap());
    for (stride, last) in [
        (8, [3.23564, 1.471, 1.6952, 1.55693, 1.43068, 1.54083, 1.46245, 0.60725]),
        (16, [1.21115, 0.88649, 0.98201, 0.95418, 0.79978, 0.8744, 0.87573, 0.41626]),
    ] {
        let options = XAttentionOptions { stride, compat: XAttentionCompat::ORIGINAL, ..Default::default() };
        let scores = score(&shape, &q, &k, &options, true);
        assert_close(scores.row(0, 0, 7), &last, Tolerance::absolute(6e-6), &case!(0, "stride {stride}"));
    }
}

fn random_options(rng: &mut Rng) -> XAttentionOptions {
    let compat = XAttentionCompat {
        chunk_align_past: rng.chance(0.3),
        tail_group: rng.chance(0.5),
        ..Default::default()
    };
    XAttentionOptions {
        stride: *rng.choose(&[1, 2, 4, 8, 16]),
        block_size: *rng.choose(&[16, 32, 128, 256]),
        norm: *rng.choose(&[1.0, 2.0]),
        softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2), Some(0.0)]),
        gqa_interleave: rng.chance(0.5),
        chunk_size: rng.chance(0.7).then_some(256),
        compat,
        ..Default::default()
    }
}

fn against_reference<T: Element>(seed: u64) {
    let mut rng = Rng::new(seed);
    let limits = ShapeLimits {
        max_tokens: 270,
        head_dims: &[16, 40, 59, 64],
        group_sizes: &[1, 2, 3, 8],
        ..Default::default()
    };
    let shape = rng.shape(&limits);
    let options = random_options(&mut rng);
    let causal = rng.chance(0.7);
    let q = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    let k = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
    let case = case!(seed, "{} causal {causal} {shape:?} {options:?}", T::DTYPE);
    let want = antidiagonal_score(&shape, &q.view(), &k.view(), &options, causal).unwrap();
    for isa in Isa::available() {
        let got = isa.scope(|| score(&shape, &q.view(), &k.view(), &options, causal));
        assert_close(got.scores(), &want.rows().concat(), Tolerance { max: 2e-4, mean: 2e-6 }, &case);
    }
}

#[test]
fn equals_the_reference_on_random_batches() {
    for seed in seeds(90) {
        match seed % 3 {
            0 => against_reference::<f32>(seed),
            1 => against_reference::<bf16>(seed),
            _ => against_reference::<f16>(seed),
        }
    }
}

/// Long enough for several query tiles, key tiles and steps of the inner dimension, with a past.
#[test]
fn equals_the_reference_on_long_sequences() {
    for (seed, (stride, block_size, past)) in
        [(16, 128, 0), (16, 128, 777), (8, 128, 1), (16, 64, 128), (4, 256, 5)].into_iter().enumerate()
    {
        let seed = seed as u64;
        let mut rng = Rng::new(seed);
        let len = 1500 + rng.below(40);
        let shape = single(len, len + past, 2, 1, 128);
        let q = Tensor::<bf16>::random(&mut rng, len, 2, 128);
        let k = Tensor::<bf16>::random(&mut rng, len + past, 1, 128);
        let options = XAttentionOptions { stride, block_size, ..Default::default() };
        let want = antidiagonal_score(&shape, &q.view(), &k.view(), &options, true).unwrap();
        let got = score(&shape, &q.view(), &k.view(), &options, true);
        let case = case!(seed, "{shape:?} {options:?}");
        assert_close(got.scores(), &want.rows().concat(), Tolerance { max: 1e-4, mean: 1e-6 }, &case);
    }
}

#[test]
fn stride_1_is_the_block_sum_of_the_softmax() {
    let (len, past, block_size) = (150, 45, 32);
    let shape = single(len, len + past, 1, 1, 32);
    let mut rng = Rng::new(1);
    let q = Tensor::<f32>::random(&mut rng, len, 1, 32);
    let k = Tensor::<f32>::random(&mut rng, len + past, 1, 32);
    let options = XAttentionOptions { stride: 1, block_size, ..Default::default() };
    let scores = score(&shape, &q.view(), &k.view(), &options, true);
    let mut want = vec![0.0f64; len.div_ceil(block_size) * (len + past).div_ceil(block_size)];
    for i in 0..len {
        let weights: Vec<f64> = (0..=i + past)
            .map(|j| {
                let (q, k) = (q.view().row(i, 0), k.view().row(j, 0));
                (q.iter().zip(k).map(|(q, k)| *q as f64 * *k as f64).sum::<f64>() / 32f64.sqrt()).exp()
            })
            .collect();
        for (j, w) in weights.iter().enumerate() {
            want[i / block_size * scores.n_blocks(0) + j / block_size] += w / weights.iter().sum::<f64>();
        }
    }
    assert_close(scores.scores(), &want, Tolerance::absolute(1e-5), &case!(1));
}

#[test]
fn equal_keys_score_exactly_alike() {
    for isa in Isa::available() {
        let shape = single(1111, 1111, 2, 1, 64);
        let mut rng = Rng::new(3);
        let q = Tensor::<bf16>::random(&mut rng, 1111, 2, 64);
        let k = Tensor::<bf16>::from_fn(Layout::thd(1111, 1, 64), |_, _, d| 0.1 * d as f64 - 3.0);
        let scores = isa.scope(|| score(&shape, &q.view(), &k.view(), &XAttentionOptions::default(), true));
        for m in 2..9 {
            let row = &scores.row(0, 1, m)[..m];
            assert!(row.iter().all(|x| x.to_bits() == row[0].to_bits()), "{isa:?}: {row:?}");
        }
    }
}

#[test]
fn does_not_depend_on_threads_or_on_the_batch() {
    let mut rng = Rng::new(7);
    let (cu_q, cu_k) = (vec![0, 700, 700, 2900, 2917], vec![0, 900, 950, 3150, 5200]);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap();
    let q = Tensor::<bf16>::random(&mut rng, 2917, 4, 64);
    let k = Tensor::<bf16>::random(&mut rng, 5200, 2, 64);
    let options = XAttentionOptions::default();
    let scores = score(&shape, &q.view(), &k.view(), &options, true);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let alone = pool.install(|| score(&shape, &q.view(), &k.view(), &options, true));
        assert!(alone == scores, "{threads} threads");
    }
    for b in 0..shape.seqlens.batch() {
        let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
        let of_one = single(q_range.len(), k_range.len(), 4, 2, 64);
        let (q, k) = (q.tokens(q_range), k.tokens(k_range));
        let alone = score(&of_one, &q.view(), &k.view(), &options, true);
        for h in 0..4 {
            for m in 0..scores.m_blocks(b) {
                assert_eq!(alone.row(0, h, m), scores.row(b, h, m));
            }
        }
    }
}

#[test]
fn refuses_what_is_not_finite() {
    let shape = single(300, 300, 2, 1, 16);
    let mut rng = Rng::new(0);
    let mut random = |heads| Tensor::<f32>::random(&mut rng, 300, heads, 16);
    let (q, k) = (random(2), random(1));
    let run = |q: &Tensor<f32>, k: &Tensor<f32>| {
        Plan::new(&shape, &XAttentionOptions::default(), true).unwrap().run(&q.view(), &k.view()).cloned()
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut bad_q, mut bad_k) = (q.clone(), k.clone());
        bad_q.view_mut().row_mut(40, 1)[15] = value;
        bad_k.view_mut().row_mut(299, 0)[0] = value;
        match run(&bad_q, &k) {
            Err(Error::NotFinite { arg: "q", token: 40, head: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
        match run(&q, &bad_k) {
            Err(Error::NotFinite { arg: "k", token: 299, head: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let huge = |x: &Tensor<f32>| Tensor::<f32>::from_fn(*x.view().layout(), |_, _, _| 1e30);
    assert!(run(&huge(&q), &huge(&k)).is_err());
}
