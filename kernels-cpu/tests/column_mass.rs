//! Column mass against the reference.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Element, Seqlens};
use lacuna_kernels_cpu::column_mass::column_mass;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, ShapeLimits, Tensor, Tolerance, assert_close, seeds};
use lacuna_reference::{case, dense_attention};

fn against_reference<T: Element>(seed: u64) {
    let mut rng = Rng::new(seed);
    let limits = ShapeLimits { max_tokens: 400, head_dims: &[16, 40, 59, 64], ..Default::default() };
    let shape = rng.shape(&limits);
    let options = AttentionOptions {
        causal: rng.chance(0.7),
        softmax_scale: *rng.choose(&[None, Some(0.3)]),
        gqa_interleave: rng.chance(0.5),
    };
    let q = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    let k = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
    let attention = dense_attention(&shape, &q.view(), &k.view(), &k.view(), &options).unwrap();
    let lse: Vec<f32> = attention.softmax_lse.iter().map(|&x| x as f32).collect();
    for b in 0..shape.seqlens.batch() {
        let mut part = |len: usize| {
            let start = rng.below(len + 1);
            start..start + rng.below(len - start + 1)
        };
        let (rows, columns) = (part(shape.seqlens.seqlen_q(b)), part(shape.seqlens.seqlen_k(b)));
        let case =
            case!(seed, "{} {shape:?} {options:?} sequence {b} rows {rows:?} columns {columns:?}", T::DTYPE);
        let mut want = vec![0.5f64; columns.len()];
        let (r, c) = (rows.clone(), columns.clone());
        lacuna_reference::column_mass(&shape, &q.view(), &k.view(), &lse, b, r, c, &options, &mut want)
            .unwrap();
        let largest = want.iter().copied().fold(0.0, f64::max);
        for isa in Isa::available() {
            let mut got = vec![0.5f32; columns.len()];
            isa.scope(|| {
                let (r, c) = (rows.clone(), columns.clone());
                column_mass(&shape, &q.view(), &k.view(), &lse, b, r, c, &options, &mut got).unwrap();
            });
            assert_close(&got, &want, Tolerance::absolute(1e-5 * largest), &case);
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

#[test]
fn all_rows_and_columns_hold_all_the_attention_on_any_number_of_threads() {
    let shape = AttentionShape::new(4, 2, 32, Seqlens::single(700, 900).unwrap()).unwrap();
    let mut rng = Rng::new(3);
    let q = Tensor::<bf16>::random(&mut rng, 700, 4, 32);
    let k = Tensor::<bf16>::random(&mut rng, 900, 2, 32);
    let options = AttentionOptions::default();
    let attention = dense_attention(&shape, &q.view(), &k.view(), &k.view(), &options).unwrap();
    let lse: Vec<f32> = attention.softmax_lse.iter().map(|&x| x as f32).collect();
    let masses = [1, 2, 5].map(|threads| {
        let mut mass = vec![0.0f32; 900];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            column_mass(&shape, &q.view(), &k.view(), &lse, 0, 0..700, 0..900, &options, &mut mass).unwrap()
        });
        mass
    });
    assert!(masses[0] == masses[1] && masses[0] == masses[2]);
    let sum: f64 = masses[0].iter().map(|&x| x as f64).sum();
    assert!((sum - 4.0 * 700.0).abs() < 1e-2, "{sum}");
}

/// Keys after every row, and rows without attention, hold anything.
#[test]
fn hidden_keys_do_not_leak() {
    let shape = AttentionShape::new(2, 1, 16, Seqlens::single(90, 40).unwrap()).unwrap();
    let mut rng = Rng::new(5);
    let q = Tensor::<f32>::random(&mut rng, 90, 2, 16);
    let mut k = Tensor::<f32>::random(&mut rng, 40, 1, 16);
    k.poison(10..40);
    // The first 50 rows see nothing; row 59 sees keys 0..10.
    let lse: Vec<f32> = (0..180).map(|i| if i % 90 < 50 { f32::NEG_INFINITY } else { 3.0 }).collect();
    let mut mass = vec![0.0f32; 40];
    let options = AttentionOptions::default();
    column_mass(&shape, &q.view(), &k.view(), &lse, 0, 0..60, 0..40, &options, &mut mass).unwrap();
    assert!(mass[..10].iter().all(|&x| x > 0.0 && x.is_finite()), "{mass:?}");
    assert!(mass[10..].iter().all(|&x| x == 0.0), "{mass:?}");
}

#[test]
fn refuses_ranges_and_buffers_that_do_not_fit() {
    let shape = AttentionShape::new(1, 1, 4, Seqlens::single(8, 8).unwrap()).unwrap();
    let x = Tensor::<f32>::random(&mut Rng::new(0), 8, 1, 4);
    let run = |b, rows, columns, lse: &[f32], mass: &mut [f32]| {
        column_mass(&shape, &x.view(), &x.view(), lse, b, rows, columns, &AttentionOptions::default(), mass)
    };
    assert!(run(0, 0..8, 0..8, &[0.0; 8], &mut [0.0; 8]).is_ok());
    assert!(run(1, 0..8, 0..8, &[0.0; 8], &mut [0.0; 8]).is_err());
    assert!(run(0, 0..9, 0..8, &[0.0; 8], &mut [0.0; 8]).is_err());
    assert!(run(0, 0..8, 3..9, &[0.0; 8], &mut [0.0; 6]).is_err());
    assert!(run(0, 0..8, 0..8, &[0.0; 7], &mut [0.0; 8]).is_err());
    assert!(run(0, 0..8, 0..8, &[0.0; 8], &mut [0.0; 7]).is_err());
    let backwards = std::ops::Range { start: 5, end: 2 };
    assert!(run(0, backwards, 0..8, &[0.0; 8], &mut [0.0; 8]).is_err());
}
