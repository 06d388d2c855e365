//! Block-sparse attention against the reference and against dense attention.

mod common;

use common::attention::Spoil;
use common::{
    Device, Half, Inputs, assert_same, for_each, on_every_device, random_mask, random_options, sees,
};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Error, Layout, Seqlens};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_host::block_sparse_attention::{DeviceBlockMask, Plan};
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Case, Rng, ShapeLimits, Tensor};

const HEAD_DIMS: [usize; 2] = [64, 128];
const BLOCKS: [(usize, usize); 6] = [(128, 128), (64, 64), (128, 64), (64, 128), (192, 64), (256, 192)];

fn shape(heads: usize, heads_k: usize, head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(seqlen_q, seqlen_k).unwrap()).unwrap()
}

fn check<T: Half>(
    device: &Device,
    rng: &mut Rng,
    shape: &AttentionShape,
    options: &AttentionOptions,
    mask: &BlockMask,
    case: &Case,
) {
    let inputs = Inputs::<T>::random(rng, shape);
    let expected = inputs.expect(shape, options, sees(mask));
    expected.assert(inputs.block_sparse(device, shape, options, mask), case);
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(200).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Masks need several blocks to differ in: every fourth case is longer than two of them.
        let max_tokens = if seed % 4 == 0 { 300 } else { 90 };
        let head_dims = [head_dim];
        let limits = ShapeLimits {
            max_tokens,
            max_batch: 2,
            max_heads_k: 1,
            head_dims: &head_dims,
            ..Default::default()
        };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let &(block_m, block_n) = rng.choose(&BLOCKS);
        let density = *rng.choose(&[0.0, 0.1, 0.3, 0.7, 1.0]);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, density);
        let case = case!(seed, "{shape:?} {options:?} blocks {block_m} x {block_n} density {density}");
        check::<T>(device, &mut rng, &shape, &options, &mask, &case);
    });
}

crate::common::seeded!();

#[test]
fn block_edges() {
    let cases: Vec<(usize, usize, usize)> = [64, 128]
        .into_iter()
        .flat_map(|b| [b - 1, b, b + 1, 2 * b, 2 * b + 1].map(|len| (b, len)))
        .flat_map(|(b, len)| [0, 1, b].map(|past| (b, len, past)))
        .collect();
    for_each(&cases, |device, &(block, len, past)| {
        let seed = (len * 1000 + past) as u64;
        let mut rng = Rng::new(seed);
        let shape = shape(1, 1, *rng.choose(&HEAD_DIMS), len, len + past);
        let mask = random_mask(&mut rng, &shape, block, block, 0.6);
        let case = case!(seed, "blocks of {block}, {len} queries after {past}");
        check::<bf16>(device, &mut rng, &shape, &AttentionOptions::default(), &mask, &case);
    });
}

#[test]
fn a_full_mask_is_dense_to_the_bit() {
    let seeds: Vec<u64> = testing::seeds(4).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let head_dims = [*rng.choose(&HEAD_DIMS)];
        let shape = rng.shape(&ShapeLimits {
            max_tokens: 200,
            max_heads_k: 1,
            head_dims: &head_dims,
            ..Default::default()
        });
        let options = random_options(&mut rng);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let case = case!(seed, "{shape:?} {options:?}");
        let want = common::unwrap(inputs.dense(device, &shape, &options), &case);
        // The same tiles as dense attention: the same order of sums.
        for (block_m, block_n) in [(128, 128), (256, 128), (128, 384)] {
            let mask = BlockMask::dense(&shape, block_m, block_n, options.causal).unwrap();
            let case = case!(seed, "{shape:?} {options:?} blocks {block_m} x {block_n}");
            assert_same(
                &common::unwrap(inputs.block_sparse(device, &shape, &options, &mask), &case),
                &want,
                &case,
            );
        }
        // Blocks that only the mask hides cost nothing and change nothing.
        let more = BlockMask::dense(&shape, 128, 128, false).unwrap();
        assert_same(
            &common::unwrap(inputs.block_sparse(device, &shape, &options, &more), &case),
            &want,
            &case,
        );
    });
}

#[test]
fn a_block_diagonal_mask_is_dense_per_block() {
    on_every_device(|device| {
        let (tokens, chunk, dim) = (300, 128, 64);
        let all = shape(2, 1, dim, tokens, tokens);
        let inputs = Inputs::<f16>::random(&mut Rng::new(3), &all);
        let options = AttentionOptions::default();
        let mask = BlockMask::block_diagonal(&all, 128, 128, chunk).unwrap();
        let case = case!(3);
        let got = common::unwrap(inputs.block_sparse(device, &all, &options, &mask), &case);
        for start in (0..tokens).step_by(chunk) {
            let range = start..(start + chunk).min(tokens);
            let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|t| t.tokens(range.clone()));
            let one = shape(2, 1, dim, range.len(), range.len());
            let want = common::unwrap(Inputs::of(q, k, v).dense(device, &one, &options), &case);
            testing::assert_bits(&got.0[range.start * 2 * dim..range.end * 2 * dim], &want.0, &case);
        }
    });
}

#[test]
fn heads_have_lists_of_their_own() {
    let cases: Vec<(usize, usize, bool)> = [(4, 2), (8, 1), (2, 2), (16, 2)]
        .into_iter()
        .flat_map(|(heads, heads_k)| [false, true].map(|interleave| (heads, heads_k, interleave)))
        .collect();
    for_each(&cases, |device, &(heads, heads_k, gqa_interleave)| {
        let mut rng = Rng::new(heads as u64);
        let seqlens = Seqlens::new(vec![0, 70, 70, 150], vec![0, 200, 210, 290]).unwrap();
        let shape = AttentionShape::new(heads, heads_k, 64, seqlens).unwrap();
        let mask = random_mask(&mut rng, &shape, 64, 64, 0.5);
        let options = AttentionOptions { gqa_interleave, ..Default::default() };
        let case = case!(heads as u64, "{heads} heads on {heads_k}, interleaved {gqa_interleave}");
        check::<bf16>(device, &mut rng, &shape, &options, &mask, &case);
    });
}

#[test]
fn blocks_that_are_not_listed_are_not_read() {
    for_each(&BLOCKS, |device, &(block_m, block_n)| {
        let mut rng = Rng::new(9);
        let shape = shape(1, 1, 128, 300, 390);
        let options = AttentionOptions::default();
        // Every second block, none for the last row of blocks.
        let mut mask = BlockMask::empty(&shape, block_m, block_n).unwrap();
        let listed: Vec<u32> = (0..mask.n_blocks(0) as u32).step_by(2).collect();
        for m in 0..mask.m_blocks(0) {
            mask.push_row(if m + 1 == mask.m_blocks(0) { &[] } else { &listed }).unwrap();
        }
        let mut inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let expected = inputs.expect(&shape, &options, sees(&mask));
        for n in (1..mask.n_blocks(0)).step_by(2) {
            let range = n * block_n..((n + 1) * block_n).min(390);
            inputs.k.poison(range.clone());
            inputs.v.poison(range);
        }
        let case = case!(9, "blocks {block_m} x {block_n}");
        let (out, lse) = expected.assert(inputs.block_sparse(device, &shape, &options, &mask), &case);
        let first = (mask.m_blocks(0) - 1) * block_m;
        assert!(out[first * 128..].iter().all(|x| x.to_f32() == 0.0), "{case}");
        assert!(lse[first..].iter().all(|&x| x == f32::NEG_INFINITY), "{case}");
    });
}

#[test]
fn what_is_not_finite_reaches_the_rows_that_see_it_and_no_other() {
    let cases: Vec<(u64, usize)> = testing::seeds(6).flat_map(|s| HEAD_DIMS.map(|d| (s, d))).collect();
    for_each(&cases, |device, &(seed, head_dim)| {
        let mut rng = Rng::new(seed);
        let shape = shape(2, 1, head_dim, 150, 230);
        let options = AttentionOptions { causal: seed % 3 != 2, ..Default::default() };
        let mask = random_mask(&mut rng, &shape, 64 << (seed % 2), 64 << (seed % 2), 0.7);
        let mut inputs = Inputs::<f16>::random(&mut rng, &shape);
        let clean = inputs.expect(&shape, &options, sees(&mask));
        inputs.spoil(&mut rng, Spoil::BOTH[seed as usize % 2]);
        let expected = inputs.expect_spoilt(&clean, &shape, &options, sees(&mask));
        let case = case!(seed, "{shape:?} {options:?}");
        expected.assert(inputs.block_sparse(device, &shape, &options, &mask), &case);
    });
}

#[test]
fn one_hot_weights_are_exact() {
    let seeds: Vec<u64> = testing::seeds(4).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (len, dim) = (200, *rng.choose(&HEAD_DIMS));
        let shape = shape(2, 1, dim, len, len);
        let (q, k, chosen) = Tensor::<bf16>::one_hot(&mut rng, len, len, 2, 1, dim, |i| i + 1);
        let v = Tensor::sparse_integers(&mut rng, len, 1, dim);
        // The chosen keys' blocks and no others.
        let mut mask = BlockMask::empty(&shape, 64, 64).unwrap();
        for _head in 0..2 {
            for m in 0..mask.m_blocks(0) {
                let rows = m * 64..((m + 1) * 64).min(len);
                let mut row: Vec<u32> = rows.map(|i| (chosen[i] / 64) as u32).collect();
                row.sort_unstable();
                row.dedup();
                mask.push_row(&row).unwrap();
            }
        }
        let inputs = Inputs::of(q, k, v);
        let want: Vec<bf16> =
            (0..len).flat_map(|i| [i, i]).flat_map(|i| inputs.v.view().row(chosen[i], 0).to_vec()).collect();
        let case = case!(seed, "{shape:?}");
        let got = inputs.block_sparse(device, &shape, &AttentionOptions::default(), &mask);
        testing::assert_bits(&common::unwrap(got, &case).0, &want, &case);
    });
}

#[test]
fn a_row_does_not_depend_on_the_batch() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let head_dims = [*rng.choose(&HEAD_DIMS)];
        let limits =
            ShapeLimits { max_tokens: 180, max_heads_k: 2, head_dims: &head_dims, ..Default::default() };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let &(block_m, block_n) = rng.choose(&BLOCKS);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, 0.6);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let case = case!(seed, "{shape:?} {options:?} blocks {block_m} x {block_n}");
        let all = common::unwrap(inputs.block_sparse(device, &shape, &options, &mask), &case);
        for b in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            let head = rng.below(shape.num_heads);
            let head_k = shape.head_k(head, options.gqa_interleave);
            let alone = Inputs::of(
                inputs.q.tokens(q_range.clone()).heads(&[head]),
                inputs.k.tokens(k_range.clone()).heads(&[head_k]),
                inputs.v.tokens(k_range.clone()).heads(&[head_k]),
            );
            let seqlens = Seqlens::single(q_range.len(), k_range.len()).unwrap();
            let one = AttentionShape::new(1, 1, shape.head_dim, seqlens).unwrap();
            let mut one_mask = BlockMask::empty(&one, block_m, block_n).unwrap();
            for m in 0..mask.m_blocks(b) {
                one_mask.push_row(mask.row(b, head, m)).unwrap();
            }
            let got = common::unwrap(alone.block_sparse(device, &one, &options, &one_mask), &case);
            let dim = shape.head_dim;
            let rows = q_range.clone().flat_map(|t| &all.0[(t * shape.num_heads + head) * dim..][..dim]);
            let want = (rows.copied().collect(), all.1[head * shape.seqlens.total_q()..][q_range].to_vec());
            assert_same(&got, &want, &case);
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |_, &seed| {
        let mut rng = Rng::new(seed);
        let shape = shape(2, 1, *rng.clone().choose(&HEAD_DIMS), 150, 280);
        let &(block_m, block_n) = rng.choose(&BLOCKS);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, 0.7);
        let inputs = Inputs::<f16>::random(&mut rng, &shape);
        let options = AttentionOptions::default();
        let run = |scheduler| {
            let (context, _) = common::emulator(Options { scheduler, ..Options::default() });
            let case = case!(seed, "{scheduler:?} {shape:?} blocks {block_m} x {block_n}");
            let device = Device { context, margin: 0 };
            common::unwrap(inputs.block_sparse(&device, &shape, &options, &mask), &case)
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in
            [Scheduler::Random(seed), Scheduler::Adversarial(seed), Scheduler::Adversarial(seed + 1)]
        {
            assert_same(&run(scheduler), &want, &case!(seed, "{scheduler:?} {shape:?}"));
        }
    });
}

#[test]
fn counters_state_the_design() {
    for (head_dim, block) in [(64, 128), (128, 128), (64, 64), (128, 64)] {
        let kernel =
            kernel::block_sparse_attention(Dtype::Bf16, head_dim as u32, block as u32, block as u32).unwrap();
        let shape = shape(1, 1, head_dim, 512, 512);
        let work = |density: f64| {
            let (context, driver) = common::emulator(Options::default());
            let mut rng = Rng::new(5);
            let mask = random_mask(&mut rng, &shape, block, block, density);
            let inputs = Inputs::<bf16>::random(&mut rng, &shape);
            let options = AttentionOptions { causal: false, ..Default::default() };
            let device = Device { context, margin: 0 };
            common::unwrap(inputs.block_sparse(&device, &shape, &options, &mask), &case!(5));
            let counters = driver.report(kernel.kernel.name).expect("a launch").counters;
            assert_eq!(counters.totals().local_bytes, 0, "{}: spills or local arrays", kernel.kernel.name);
            // No block, no load.
            let loads = counters.opcode("ldmatrix");
            assert_eq!(loads.shared_wavefronts, loads.shared_phases, "{}", kernel.kernel.name);
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "{}", kernel.kernel.name);
            let stored = counters.opcode("st.global").global_bytes;
            assert_eq!(stored, (512 * (2 * head_dim + 4)) as u64, "each output once");
            (counters.totals().macs, mask.indices().len())
        };
        // Exactly the listed blocks are computed.
        for (macs, blocks) in [work(1.0), work(0.4)] {
            assert_eq!(macs, (2 * blocks * block * block * head_dim) as u64, "{}", kernel.kernel.name);
        }
        assert_eq!(work(0.0).0, 0);
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let options = AttentionOptions::default();
        let this = shape(2, 1, 64, 50, 90);
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(
                why.starts_with("block_sparse_attention: ") && parts.iter().all(|p| why.contains(p)),
                "{why}"
            );
        };
        for (block_m, block_n, arg) in [
            (0, 64, "block_m"),
            (32, 64, "block_m"),
            (100, 64, "block_m"),
            (64, 0, "block_n"),
            (64, 96, "block_n"),
        ] {
            let why = Plan::<bf16>::new(context, &this, &options, block_m, block_n).unwrap_err();
            refuses(why, &[arg, "multiple of 64"]);
        }
        let huge = Plan::<bf16>::new(context, &this, &options, 64, usize::MAX & !63).unwrap_err();
        refuses(huge, &["block_n"]);
        refuses(Plan::<f32>::new(context, &this, &options, 64, 64).unwrap_err(), &["dtype", "f32"]);
        let odd = shape(2, 1, 80, 50, 90);
        refuses(Plan::<bf16>::new(context, &odd, &options, 64, 64).unwrap_err(), &["head_dim", "80"]);

        let plan = Plan::<bf16>::new(context, &this, &options, 64, 64).unwrap();
        let tensor = |layout| DeviceTensor::<bf16>::uninit(context, layout, "tensor").unwrap();
        let (q, k) = (tensor(Layout::thd(50, 2, 64)), tensor(Layout::thd(90, 1, 64)));
        let mut out = tensor(Layout::thd(50, 2, 64));
        let mut out = out.view_mut().unwrap();
        let stream = context.default_stream();
        let longer = shape(2, 1, 64, 50, 91);
        for (mask, part) in [
            (BlockMask::dense(&this, 128, 64, true).unwrap(), "[128, 64]"),
            (BlockMask::dense(&longer, 64, 64, true).unwrap(), "91"),
        ] {
            let mask = DeviceBlockMask::from_host(context, &mask).unwrap();
            let got = plan.run(&stream, &q.view(), &k.view(), &k.view(), &mask, &mut out, None);
            refuses(got.unwrap_err(), &["block_mask", part]);
        }
        let mask =
            DeviceBlockMask::from_host(context, &BlockMask::dense(&this, 64, 64, true).unwrap()).unwrap();
        let mut lse = DeviceBuffer::<f32>::uninit(context, 99, "lse").unwrap();
        let got = plan.run(&stream, &q.view(), &k.view(), &k.view(), &mask, &mut out, Some(&mut lse));
        refuses(got.unwrap_err(), &["softmax_lse", "[2, 50]"]);
    });
}
