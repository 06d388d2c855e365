//! Block-sparse attention against the reference and against dense attention.

mod common;

use common::{Inputs, on_every_isa};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Element, Layout, Seqlens};
use lacuna_kernels_cpu::{block_sparse_attention::Plan, dense_attention};
use lacuna_reference::case;
use lacuna_reference::testing::{self, HEAD_DIMS, Number, Rng, ShapeLimits, Tensor};

fn run<T: Element>(
    inputs: &Inputs<T>,
    shape: &AttentionShape,
    options: &AttentionOptions,
    mask: &BlockMask,
) -> (Vec<T>, Vec<f32>) {
    inputs.run(shape, |q, k, v, out, lse| {
        Plan::new(shape, options, mask.block_m(), mask.block_n())?.run(q, k, v, mask, out, lse)
    })
}

/// Every block with probability `density`, those that the causal mask hides among them.
fn random_mask(
    rng: &mut Rng,
    shape: &AttentionShape,
    block_m: usize,
    block_n: usize,
    density: f64,
) -> BlockMask {
    let mut mask = BlockMask::empty(shape, block_m, block_n).unwrap();
    for b in 0..shape.seqlens.batch() {
        for _ in 0..shape.num_heads * mask.m_blocks(b) {
            let row: Vec<u32> = (0..mask.n_blocks(b) as u32).filter(|_| rng.chance(density)).collect();
            mask.push_row(&row).unwrap();
        }
    }
    mask
}

fn sees(mask: &BlockMask) -> impl Fn(usize, usize, usize, usize) -> bool {
    |b, h, i, j| mask.row(b, h, i / mask.block_m()).binary_search(&((j / mask.block_n()) as u32)).is_ok()
}

fn seeded<T: Element + Number>() {
    let limits = ShapeLimits {
        max_tokens: 160,
        max_batch: 2,
        max_heads_k: 2,
        head_dims: &HEAD_DIMS,
        ..Default::default()
    };
    for seed in testing::seeds(10) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&limits);
        let options = AttentionOptions { causal: rng.chance(0.7), ..Default::default() };
        let [block_m, block_n] = [0, 1].map(|_| *rng.choose(&[16, 32, 64, 128, 256, 1, 7, 24, 100]));
        let density = *rng.choose(&[0.0, 0.1, 0.3, 0.7, 1.0]);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, density);
        let inputs = Inputs::<T>::random(&mut rng, &shape);
        let expected = inputs.expect(&shape, &options, sees(&mask));
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {shape:?} blocks {block_m} x {block_n} density {density}");
            expected.assert(&run(&inputs, &shape, &options, &mask), &case);
        });
    }
}

#[test]
fn seeded_masks_f32() {
    seeded::<f32>();
}

#[test]
fn seeded_masks_bf16() {
    seeded::<bf16>();
}

#[test]
fn seeded_masks_f16() {
    seeded::<f16>();
}

#[test]
fn block_edges() {
    for (seed, len) in
        [64, 128].into_iter().flat_map(|b| testing::edge_lengths(b).map(|len| (b, len))).enumerate()
    {
        let (block, len) = len;
        let mut rng = Rng::new(seed as u64);
        let past = *rng.choose(&[0, 1, block]);
        let shape =
            AttentionShape::new(1, 1, 32, Seqlens::single(len.min(300), len.min(300) + past).unwrap())
                .unwrap();
        let mask = random_mask(&mut rng, &shape, block, block, 0.5);
        let options = AttentionOptions::default();
        let inputs = Inputs::<f32>::random(&mut rng, &shape);
        let expected = inputs.expect(&shape, &options, sees(&mask));
        on_every_isa(|isa| {
            expected
                .assert(&run(&inputs, &shape, &options, &mask), &case!(seed as u64, "{isa:?} {block} {len}"));
        });
    }
}

#[test]
fn a_full_mask_is_dense_to_the_bit() {
    for seed in testing::seeds(4) {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&ShapeLimits { max_tokens: 400, ..Default::default() });
        let options = AttentionOptions { causal: rng.chance(0.7), ..Default::default() };
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        on_every_isa(|isa| {
            let (out, lse) = inputs.run(&shape, |q, k, v, out, lse| {
                dense_attention::Plan::new(&shape, &options)?.run(q, k, v, out, lse)
            });
            for (block_m, block_n) in [(16, 16), (128, 128), (64, 256), (100, 24), (1000, 1)] {
                let mask = BlockMask::dense(&shape, block_m, block_n, options.causal).unwrap();
                let got = run(&inputs, &shape, &options, &mask);
                let case = case!(seed, "{isa:?} {shape:?} blocks {block_m} x {block_n}");
                testing::assert_bits(&got.0, &out, &case);
                testing::assert_bits(&got.1, &lse, &case);
            }
        });
    }
}

#[test]
fn unlisted_poison_stays_unseen() {
    // Blocks of 24 keys share panels of 16 with their neighbours: every unlisted key is NaN or infinite.
    for seed in testing::seeds(4) {
        let mut rng = Rng::new(seed);
        let block_n = *rng.choose(&[16, 24, 64, 5]);
        let shape = AttentionShape::new(1, 1, 40, Seqlens::single(200, 230).unwrap()).unwrap();
        let mut mask = BlockMask::empty(&shape, 256, block_n).unwrap();
        let listed: Vec<u32> = (0..230u32.div_ceil(block_n as u32)).filter(|_| rng.chance(0.4)).collect();
        mask.push_row(&listed).unwrap();
        fn check<T: Element + Number>(seed: u64, shape: &AttentionShape, mask: &BlockMask) {
            let clean = Inputs::<T>::random(&mut Rng::new(seed), shape);
            let unlisted = |t: &Tensor<T>, bad: f64| {
                Tensor::<T>::from_fn(Layout::thd(230, 1, 40), |j, h, d| {
                    let listed = mask.row(0, 0, 0).contains(&((j / mask.block_n()) as u32));
                    if listed { t.view().row(j, h)[d].to_f64() } else { bad }
                })
            };
            for bad in [f64::NAN, f64::INFINITY] {
                let poisoned =
                    Inputs { q: clean.q.clone(), k: unlisted(&clean.k, bad), v: unlisted(&clean.v, bad) };
                for causal in [true, false] {
                    let options = AttentionOptions { causal, ..Default::default() };
                    let expected = clean.expect(shape, &options, sees(mask));
                    on_every_isa(|isa| {
                        let case = case!(seed, "{isa:?} {bad} {causal} {}", mask.block_n());
                        expected.assert(&run(&poisoned, shape, &options, mask), &case);
                    });
                }
            }
        }
        check::<f32>(seed, &shape, &mask);
        check::<bf16>(seed, &shape, &mask);
    }
}

#[test]
fn permuting_heads_permutes_outputs() {
    let mut rng = Rng::new(5);
    let shape = AttentionShape::new(4, 4, 64, Seqlens::single(150, 200).unwrap()).unwrap();
    let options = AttentionOptions::default();
    let inputs = Inputs::<bf16>::random(&mut rng, &shape);
    let mask = random_mask(&mut rng, &shape, 32, 64, 0.4);
    let order = [2, 0, 3, 1];
    let permuted = Inputs { q: inputs.q.heads(&order), k: inputs.k.heads(&order), v: inputs.v.heads(&order) };
    let mut permuted_mask = BlockMask::empty(&shape, 32, 64).unwrap();
    for h in order {
        for m in 0..mask.m_blocks(0) {
            permuted_mask.push_row(mask.row(0, h, m)).unwrap();
        }
    }
    on_every_isa(|isa| {
        let (out, lse) = run(&inputs, &shape, &options, &mask);
        let (out_permuted, lse_permuted) = run(&permuted, &shape, &options, &permuted_mask);
        let want: Vec<bf16> =
            (0..150).flat_map(|t| order.map(|h| &out[(t * 4 + h) * 64..][..64])).flatten().copied().collect();
        let want_lse: Vec<f32> = order.iter().flat_map(|h| lse[h * 150..][..150].to_vec()).collect();
        testing::assert_bits(&out_permuted, &want, &case!(5, "{isa:?}"));
        testing::assert_bits(&lse_permuted, &want_lse, &case!(5, "{isa:?}"));
    });
}

#[test]
fn threads_do_not_matter() {
    let mut rng = Rng::new(6);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::single(500, 500).unwrap()).unwrap();
    let options = AttentionOptions::default();
    let inputs = Inputs::<bf16>::random(&mut rng, &shape);
    let mask = random_mask(&mut rng, &shape, 64, 64, 0.4);
    let want = run(&inputs, &shape, &options, &mask);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| run(&inputs, &shape, &options, &mask)), want);
    }
}

#[test]
fn refuses_foreign_masks() {
    let shape = AttentionShape::new(2, 1, 16, Seqlens::single(100, 100).unwrap()).unwrap();
    let options = AttentionOptions::default();
    let other = AttentionShape::new(2, 1, 16, Seqlens::single(100, 101).unwrap()).unwrap();
    let inputs = Inputs::<f32>::random(&mut Rng::new(1), &shape);
    let mut plan = Plan::new(&shape, &options, 64, 64).unwrap();
    let mut out = vec![0.0; 100 * 2 * 16];
    let mut out = lacuna_core::TensorViewMut::thd(&mut out, 100, 2, 16).unwrap();
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    for mask in [
        BlockMask::dense(&shape, 64, 32, true).unwrap(),
        BlockMask::dense(&other, 64, 64, true).unwrap(),
        BlockMask::empty(&shape, 64, 64).unwrap(),
    ] {
        let why = plan.run(&q, &k, &v, &mask, &mut out, None).unwrap_err().to_string();
        assert!(why.contains("block_mask"), "{why}");
    }
    assert!(Plan::<f32>::new(&shape, &options, 0, 64).is_err());
}
