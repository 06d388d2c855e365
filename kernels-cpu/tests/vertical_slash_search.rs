//! MInference's vertical-slash search against the reference.

use half::bf16;
use lacuna_core::{
    AttentionShape, Element, Error, Layout, Seqlens, TensorView, VerticalSlashIndex, VerticalSlashOptions,
};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_kernels_cpu::vertical_slash::SearchPlan;
use lacuna_reference::testing::{Rng, ShapeLimits, Tensor, seeds};
use lacuna_reference::{case, vertical_slash};

fn search<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &VerticalSlashOptions,
) -> VerticalSlashIndex {
    SearchPlan::new(shape, options).unwrap().search(q, k).unwrap().clone()
}

/// Whether no score lies so close to its cut that rounding decides; only then the index is compared.
fn against_reference<T: Element>(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let shape = rng.shape(&ShapeLimits { max_tokens: 260, head_dims: &[16, 59, 64], ..Default::default() });
    let options = VerticalSlashOptions {
        vertical_size: *rng.choose(&[1, 40, 1000]),
        slash_size: *rng.choose(&[1, 70, 6096]),
        last_q: *rng.choose(&[1, 16, 64, 200]),
        sink: *rng.choose(&[0, 30, 50]),
        recent: *rng.choose(&[1, 30, 100]),
        softmax_scale: *rng.choose(&[None, Some(0.2)]),
        gqa_interleave: rng.chance(0.5),
    };
    let q = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    let k = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
    let case = case!(seed, "{} {shape:?} {options:?}", T::DTYPE);
    let want = vertical_slash(&shape, &q.view(), &k.view(), &options).unwrap();
    let close = want.heads.iter().any(|head| {
        [(&head.column_scores, head.columns.len()), (&head.slash_scores, head.slashes.len())].into_iter().any(
            |(scores, k)| {
                let mut sorted = scores.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                k > 0 && k < sorted.len() && sorted[k - 1] <= sorted[k] * (1.0 + 2e-5)
            },
        )
    });
    for isa in Isa::available().filter(|_| !close) {
        let got = isa.scope(|| search(&shape, &q.view(), &k.view(), &options));
        assert!(got == want.index, "{isa:?} {case}");
    }
    !close
}

#[test]
fn equals_the_reference_on_random_batches() {
    let all = seeds(60);
    let compared =
        all.clone()
            .filter(|&seed| {
                if seed % 2 == 0 { against_reference::<f32>(seed) } else { against_reference::<bf16>(seed) }
            })
            .count();
    assert!(all.count() == 1 || compared > 30, "only {compared} cases are fit to compare");
}

/// Equal keys: the first columns and the nearest diagonals, over more than one chunk of keys.
#[test]
fn ties_go_to_the_lowest_index() {
    let len = 4500;
    let shape = AttentionShape::new(1, 1, 16, Seqlens::single(len, len).unwrap()).unwrap();
    let x = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 16), |_, _, d| 0.3 * d as f64 - 1.7);
    let options = VerticalSlashOptions {
        vertical_size: 300,
        slash_size: 200,
        sink: 0,
        recent: 1,
        ..Default::default()
    };
    let mut want = VerticalSlashIndex::empty(&shape).unwrap();
    want.push_head(&(0..300).collect::<Vec<_>>(), &(0..200).rev().collect::<Vec<_>>()).unwrap();
    for isa in Isa::available() {
        assert!(isa.scope(|| search(&shape, &x.view(), &x.view(), &options)) == want, "{isa:?}");
    }
}

#[test]
fn does_not_depend_on_threads_or_on_the_batch() {
    let mut rng = Rng::new(7);
    let (cu_q, cu_k) = (vec![0, 700, 700, 2900, 2917], vec![0, 900, 950, 3150, 5200]);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap();
    let q = Tensor::<bf16>::random(&mut rng, 2917, 4, 64);
    let k = Tensor::<bf16>::random(&mut rng, 5200, 2, 64);
    let options = VerticalSlashOptions { vertical_size: 100, slash_size: 200, ..Default::default() };
    let index = search(&shape, &q.view(), &k.view(), &options);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| search(&shape, &q.view(), &k.view(), &options)) == index);
    }
    for b in 0..shape.seqlens.batch() {
        let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
        let seqlens = Seqlens::single(q_range.len(), k_range.len()).unwrap();
        let of_one = AttentionShape::new(4, 2, 64, seqlens).unwrap();
        let (q, k) = (q.tokens(q_range), k.tokens(k_range));
        let alone = search(&of_one, &q.view(), &k.view(), &options);
        for h in 0..4 {
            for m in 0..index.m_tiles(b) {
                assert_eq!(alone.blocks(0, h, m), index.blocks(b, h, m));
                assert_eq!(alone.columns(0, h, m), index.columns(b, h, m));
            }
        }
    }
}

#[test]
fn refuses_what_is_not_finite_and_only_what_it_reads() {
    let shape = AttentionShape::new(2, 1, 16, Seqlens::single(300, 300).unwrap()).unwrap();
    let mut rng = Rng::new(0);
    let (q, k) = (Tensor::<f32>::random(&mut rng, 300, 2, 16), Tensor::<f32>::random(&mut rng, 300, 1, 16));
    let options = VerticalSlashOptions::default();
    let run = |q: &Tensor<f32>, k: &Tensor<f32>| {
        SearchPlan::new(&shape, &options).unwrap().search(&q.view(), &k.view()).cloned()
    };
    let (mut bad_q, mut bad_k) = (q.clone(), k.clone());
    bad_q.view_mut().row_mut(5, 0)[1] = f32::NAN;
    assert!(run(&bad_q, &k).is_ok());
    bad_q.view_mut().row_mut(240, 0)[1] = f32::NEG_INFINITY;
    bad_k.view_mut().row_mut(3, 0)[1] = f32::INFINITY;
    assert!(matches!(run(&bad_q, &k), Err(Error::NotFinite { arg: "q", token: 240, head: 0, .. })));
    assert!(matches!(run(&q, &bad_k), Err(Error::NotFinite { arg: "k", token: 3, head: 0, .. })));
}
