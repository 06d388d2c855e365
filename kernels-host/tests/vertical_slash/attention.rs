//! Attention over the keys of an index.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Error, Layout, Seqlens, VerticalSlashIndex};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_host::vertical_slash::{AttentionPlan, DeviceVerticalSlashIndex};
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Case, Rng, ShapeLimits, Tensor};

use crate::common::attention::Spoil;
use crate::common::vertical_slash::{random_index, sees};
use crate::common::{self, Device, Half, Inputs, assert_same, for_each, on_every_device};

const TILE: usize = VerticalSlashIndex::TILE;
const HEAD_DIMS: [usize; 2] = [64, 128];

fn shape(heads: usize, heads_k: usize, head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(seqlen_q, seqlen_k).unwrap()).unwrap()
}

/// The same lists for every head.
fn index_of(shape: &AttentionShape, columns: &[u32], slashes: &[u32]) -> VerticalSlashIndex {
    let mut index = VerticalSlashIndex::empty(shape).unwrap();
    for _ in 0..shape.seqlens.batch() * shape.num_heads {
        index.push_head(columns, slashes).unwrap();
    }
    index
}

fn random_options(rng: &mut Rng) -> AttentionOptions {
    AttentionOptions { causal: true, ..common::random_options(rng) }
}

fn check<T: Half>(
    device: &Device,
    rng: &mut Rng,
    shape: &AttentionShape,
    options: &AttentionOptions,
    index: &VerticalSlashIndex,
    case: &Case,
) {
    let inputs = Inputs::<T>::random(rng, shape);
    let expected = inputs.expect(shape, options, sees(index));
    expected.assert(inputs.vertical_slash(device, shape, options, index), case);
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(100).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Every fourth case is longer than a few tiles, those between are small.
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
        let index = random_index(&mut rng, &shape);
        let case = case!(seed, "{shape:?} {options:?} density {:.2}", index.density());
        check::<T>(device, &mut rng, &shape, &options, &index, &case);
    });
}

crate::common::seeded!();

/// How often every row reads every key: queries of zeros weigh all keys alike, values are one-hot by key.
fn reads(device: &Device, shape: &AttentionShape, index: &VerticalSlashIndex) -> Vec<Vec<u32>> {
    let (len_q, len_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
    let plain = |len, f: &dyn Fn(usize, usize) -> bool| {
        Tensor::<f16>::from_fn(Layout::thd(len, 1, shape.head_dim), |t, _, d| f64::from(u8::from(f(t, d))))
    };
    let mut reads = vec![vec![0; len_k]; len_q];
    for first in (0..len_k).step_by(shape.head_dim) {
        let inputs = Inputs::of(
            plain(len_q, &|_, _| false),
            plain(len_k, &|_, _| true),
            plain(len_k, &|t, d| t == first + d),
        );
        let (out, lse) = inputs.vertical_slash(device, shape, &AttentionOptions::default(), index).unwrap();
        for (i, row) in out.chunks_exact(shape.head_dim).enumerate() {
            let keys = lse[i].exp();
            for (d, weight) in row.iter().enumerate().filter(|(_, weight)| weight.to_f32() != 0.0) {
                reads[i][first + d] = (weight.to_f32() * keys).round() as u32;
            }
        }
    }
    reads
}

#[test]
fn golden_vectors_of_the_published_conversion() {
    type Row = (&'static [usize], &'static [usize]);
    const LONG: [Row; 5] = [
        (&[0], &[]),
        (&[0, 64], &[]),
        (&[28, 92, 156], &[0, 1, 5]),
        (&[0, 92, 156, 220], &[70]),
        (&[6, 156, 220, 284], &[0, 1, 5, 70, 130]),
    ];
    const SHORT: [Row; 4] = [(&[0], &[]), (&[64], &[10]), (&[0, 128], &[]), (&[64, 192], &[10])];
    on_every_device(|device| {
        let long = shape(1, 1, 128, 300, 300);
        let short = shape(1, 1, 128, 256, 256);
        let long = (&long, index_of(&long, &[0, 1, 5, 70, 130, 200], &[250, 100, 64, 1, 0]), &LONG[..]);
        let short = (&short, index_of(&short, &[10, 200], &[128, 0]), &SHORT[..]);
        for (shape, index, want) in [long, short] {
            for (i, row) in reads(device, shape, &index).into_iter().enumerate() {
                let (blocks, columns) = want[i / TILE];
                let listed = |j| blocks.iter().any(|&b| (b..b + TILE).contains(&j)) || columns.contains(&j);
                let want: Vec<u32> = (0..row.len()).map(|j| u32::from(j <= i && listed(j))).collect();
                assert_eq!(row, want, "row {i} of {}", want.len());
            }
        }
    });
}

#[test]
fn tile_edges_after_any_past() {
    let cases: Vec<(usize, usize)> = [1usize, 63, 64, 65, 128, 129, 509]
        .into_iter()
        .flat_map(|len| {
            [-130, -64, -1, 0, 1, 64, 777].map(|past: isize| (len, len.saturating_add_signed(past)))
        })
        .collect();
    for_each(&cases, |device, &(seqlen_q, seqlen_k)| {
        let seed = (seqlen_q * 1000 + seqlen_k) as u64;
        let mut rng = Rng::new(seed);
        let shape = shape(1, 1, *rng.choose(&HEAD_DIMS), seqlen_q, seqlen_k);
        let index = random_index(&mut rng, &shape);
        let case = case!(seed, "{seqlen_q} queries, {seqlen_k} keys");
        check::<bf16>(device, &mut rng, &shape, &AttentionOptions::default(), &index, &case);
    });
}

#[test]
fn long_lists() {
    // Columns in one gap that fill many gathered tiles, in gaps between all blocks, among dense slashes; slashes of which
    // most lie beyond the rows, or all call for one block.
    let every = |n: u32, from: u32, to: u32| -> Vec<u32> { (from..to).step_by(n as usize).collect() };
    let lists: [(Vec<u32>, Vec<u32>); 6] = [
        (every(1, 0, 1900), vec![0]),
        (every(3, 0, 2000), every(100, 0, 2000)),
        (every(2, 0, 2000), every(1, 300, 800)),
        (every(64, 0, 2000), every(1, 0, 60)),
        (every(5, 0, 2000), every(1, 0, 2000)),
        (every(7, 1, 2000), every(65, 0, 2000)),
    ];
    let cases: Vec<_> = lists.iter().flat_map(|lists| [(lists, 2000), (lists, 100)]).collect();
    for_each(&cases, |device, &((columns, slashes), seqlen_k)| {
        let seed = (columns.len() * 10000 + slashes.len()) as u64;
        let mut rng = Rng::new(seed);
        let shape = shape(1, 1, *rng.choose(&HEAD_DIMS), 100, seqlen_k);
        let mut slashes: Vec<u32> = slashes.iter().rev().copied().collect();
        if slashes.last() != Some(&0) {
            slashes.push(0);
        }
        let index = index_of(&shape, columns, &slashes);
        let case = case!(seed, "{} columns, {} slashes, {seqlen_k} keys", columns.len(), slashes.len());
        check::<f16>(device, &mut rng, &shape, &AttentionOptions::default(), &index, &case);
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
        let index = random_index(&mut rng, &shape);
        let options = AttentionOptions { gqa_interleave, ..Default::default() };
        let case = case!(heads as u64, "{heads} heads on {heads_k}, interleaved {gqa_interleave}");
        check::<bf16>(device, &mut rng, &shape, &options, &index, &case);
    });
}

#[test]
fn keys_that_no_row_lists_are_not_read() {
    for_each(&testing::seeds(6).collect::<Vec<_>>(), |device, &seed| {
        let mut rng = Rng::new(seed);
        let shape = shape(1, 1, *rng.clone().choose(&HEAD_DIMS), 150, 700);
        let options = AttentionOptions::default();
        let columns: Vec<u32> = (0..700).filter(|_| rng.chance(0.1)).collect();
        let index = index_of(&shape, &columns, &[500, 300, 0]);
        let mut inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let listed = sees(&index);
        let expected = inputs.expect(&shape, &options, &listed);
        let unlisted: Vec<usize> = (0..700).filter(|&j| !(0..150).any(|i| listed(0, 0, i, j))).collect();
        assert!(unlisted.len() > 100);
        for j in unlisted {
            inputs.k.poison(j..j + 1);
            inputs.v.poison(j..j + 1);
        }
        let case = case!(seed, "{shape:?}");
        expected.assert(inputs.vertical_slash(device, &shape, &options, &index), &case);
    });
}

#[test]
fn what_is_not_finite_reaches_the_rows_that_see_it_and_no_other() {
    let cases: Vec<(u64, usize)> = testing::seeds(6).flat_map(|s| HEAD_DIMS.map(|d| (s, d))).collect();
    for_each(&cases, |device, &(seed, head_dim)| {
        let mut rng = Rng::new(seed);
        let shape = shape(2, 1, head_dim, 150, 330);
        let options = AttentionOptions::default();
        let index = random_index(&mut rng, &shape);
        let mut inputs = Inputs::<f16>::random(&mut rng, &shape);
        let clean = inputs.expect(&shape, &options, sees(&index));
        inputs.spoil(&mut rng, Spoil::BOTH[seed as usize % 2]);
        let expected = inputs.expect_spoilt(&clean, &shape, &options, sees(&index));
        let case = case!(seed, "{shape:?} {options:?}");
        expected.assert(inputs.vertical_slash(device, &shape, &options, &index), &case);
    });
}

#[test]
fn one_hot_weights_are_exact() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (len, dim) = (300, *rng.choose(&HEAD_DIMS));
        let shape = shape(2, 1, dim, len, len);
        let (q, k, chosen) = Tensor::<bf16>::one_hot(&mut rng, len, len, 2, 1, dim, |i| i + 1);
        let v = Tensor::sparse_integers(&mut rng, len, 1, dim);
        // The chosen keys as columns, or as slashes, and few others.
        let mut columns: Vec<u32> = chosen.iter().map(|&j| j as u32).collect();
        let mut slashes: Vec<u32> = chosen.iter().enumerate().map(|(i, &j)| (i - j) as u32).collect();
        columns.sort_unstable();
        columns.dedup();
        slashes.push(0);
        slashes.sort_unstable_by(|a, b| b.cmp(a));
        slashes.dedup();
        let index =
            if seed % 2 == 0 { index_of(&shape, &columns, &[0]) } else { index_of(&shape, &[], &slashes) };
        let inputs = Inputs::of(q, k, v);
        let want: Vec<bf16> =
            (0..len).flat_map(|i| [i, i]).flat_map(|i| inputs.v.view().row(chosen[i], 0).to_vec()).collect();
        let case = case!(seed, "{shape:?}");
        let got = inputs.vertical_slash(device, &shape, &AttentionOptions::default(), &index);
        testing::assert_bits(&common::unwrap(got, &case).0, &want, &case);
    });
}

#[test]
fn a_row_does_not_depend_on_the_batch() {
    let seeds: Vec<u64> = testing::seeds(8).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let head_dims = [*rng.choose(&HEAD_DIMS)];
        let limits =
            ShapeLimits { max_tokens: 180, max_heads_k: 2, head_dims: &head_dims, ..Default::default() };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let index = random_index(&mut rng, &shape);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let case = case!(seed, "{shape:?} {options:?}");
        let all = common::unwrap(inputs.vertical_slash(device, &shape, &options, &index), &case);
        for b in (0..shape.seqlens.batch()).filter(|&b| shape.seqlens.seqlen_q(b) > 0) {
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
            let (columns, slashes) = index.kept(b, head);
            let one_index = index_of(&one, columns, slashes);
            let got = common::unwrap(alone.vertical_slash(device, &one, &options, &one_index), &case);
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
        let shape = shape(2, 1, *rng.clone().choose(&HEAD_DIMS), 150, 480);
        let index = random_index(&mut rng, &shape);
        let inputs = Inputs::<f16>::random(&mut rng, &shape);
        let options = AttentionOptions::default();
        let run = |scheduler| {
            let (context, _) = common::emulator(Options { scheduler, ..Options::default() });
            let case = case!(seed, "{scheduler:?} {shape:?}");
            let device = Device { context, margin: 0 };
            common::unwrap(inputs.vertical_slash(&device, &shape, &options, &index), &case)
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
fn raw_calls_give_the_same_bits() {
    on_every_device(|device| {
        let mut rng = Rng::new(7);
        let shape = shape(4, 2, 64, 90, 300);
        let options = AttentionOptions::default();
        let index = random_index(&mut rng, &shape);
        let inputs = Inputs::<f16>::random(&mut rng, &shape);
        let case = case!(7);
        let want = common::unwrap(inputs.vertical_slash(device, &shape, &options, &index), &case);
        let plan = AttentionPlan::<f16>::new(&device.context, &shape, &options).unwrap();
        let index = DeviceVerticalSlashIndex::from_host(&device.context, &index).unwrap();
        let got = inputs.run(device, |stream, q, k, v, out, lse| {
            // SAFETY: tensors and index are those that the plan was made for.
            unsafe {
                plan.run_raw(stream.raw(), q.raw(), k.raw(), v.raw(), &index.raw(), out.raw(), lse.ptr())
            }
        });
        assert_same(&common::unwrap(got, &case), &want, &case);
    });
}

#[test]
fn an_index_comes_back_as_it_went() {
    on_every_device(|device| {
        let mut rng = Rng::new(1);
        let seqlens = Seqlens::new(vec![0, 70, 70, 150], vec![0, 200, 210, 210]).unwrap();
        let shape = AttentionShape::new(3, 1, 64, seqlens).unwrap();
        let index = random_index(&mut rng, &shape);
        let there = DeviceVerticalSlashIndex::from_host(&device.context, &index).unwrap();
        let back = there.to_host(&device.context.default_stream()).unwrap();
        assert_eq!(back, index);
        assert_eq!(back.density(), index.density());
    });
}

#[test]
fn counters_state_the_design() {
    for head_dim in HEAD_DIMS {
        let kernel = kernel::vertical_slash(Dtype::Bf16, head_dim as u32).unwrap().kernel.name;
        let shape = shape(1, 1, head_dim, 512, 512);
        let work = |index: &VerticalSlashIndex| {
            let (context, driver) = common::emulator(Options::default());
            let inputs = Inputs::<bf16>::random(&mut Rng::new(5), &shape);
            let device = Device { context, margin: 0 };
            let options = AttentionOptions::default();
            common::unwrap(inputs.vertical_slash(&device, &shape, &options, index), &case!(5));
            let counters = driver.report(kernel).expect("a launch").counters;
            assert_eq!(counters.totals().local_bytes, 0, "{kernel}: local arrays");
            let loads = counters.opcode("ldmatrix");
            assert_eq!(loads.shared_wavefronts, loads.shared_phases, "{kernel}");
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "{kernel}");
            let stored = counters.opcode("st.global").global_bytes;
            assert_eq!(stored, (512 * (2 * head_dim + 4)) as u64, "each output once");
            let totals = counters.totals();
            (totals.macs, counters.opcode("cp.async").global_bytes)
        };
        let spread: Vec<u32> = (0..512).step_by(5).collect();
        let cases: [(&[u32], &[u32]); 4] =
            [(&[], &[0]), (&spread, &[0]), (&spread, &[300, 200, 101, 0]), (&[1, 2], &[250, 0])];
        for (columns, slashes) in cases {
            let index = index_of(&shape, columns, slashes);
            let (macs, copied) = work(&index);
            // One step for each block and for each 64 columns.
            let rows = 0..index.m_tiles(0);
            let lists = || rows.clone().map(|m| (m, index.blocks(0, 0, m), index.columns(0, 0, m)));
            let steps: usize = lists().map(|(_, b, c)| b.len() + c.len().div_ceil(TILE)).sum();
            assert_eq!(macs, (2 * steps * TILE * TILE * head_dim) as u64, "{kernel}");
            // Keys before the last row's position, and columns, are read once for each tile of rows; queries once.
            let keys: usize = lists()
                .map(|(m, b, c)| {
                    let seen = |&start: &u32| ((m + 1) * TILE).saturating_sub(start as usize).min(TILE);
                    b.iter().map(seen).sum::<usize>() + c.len()
                })
                .sum();
            assert_eq!(copied, ((2 * keys + 512) * 2 * head_dim) as u64, "{kernel}");
        }
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
            assert!(why.starts_with("vertical_slash: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        refuses(AttentionPlan::<f32>::new(context, &this, &options).unwrap_err(), &["dtype", "f32"]);
        let odd = shape(2, 1, 80, 50, 90);
        refuses(AttentionPlan::<bf16>::new(context, &odd, &options).unwrap_err(), &["head_dim", "80"]);
        let open = AttentionOptions { causal: false, ..options };
        refuses(AttentionPlan::<bf16>::new(context, &this, &open).unwrap_err(), &["causal"]);
        let long = shape(1, 1, 64, 1, 1 << 30);
        let why = AttentionPlan::<bf16>::new(context, &long, &options).unwrap_err();
        refuses(why, &["tokens of a sequence", "1073741824"]);
        let incomplete = VerticalSlashIndex::empty(&this).unwrap();
        refuses(DeviceVerticalSlashIndex::from_host(context, &incomplete).unwrap_err(), &["index", "[2]"]);

        let plan = AttentionPlan::<bf16>::new(context, &this, &options).unwrap();
        let tensor = |layout| DeviceTensor::<bf16>::uninit(context, layout, "tensor").unwrap();
        let (q, k) = (tensor(Layout::thd(50, 2, 64)), tensor(Layout::thd(90, 1, 64)));
        let mut out = tensor(Layout::thd(50, 2, 64));
        let mut out = out.view_mut().unwrap();
        let stream = context.default_stream();
        let index = |shape: &AttentionShape| {
            DeviceVerticalSlashIndex::from_host(context, &index_of(shape, &[], &[0])).unwrap()
        };
        let longer = index(&shape(2, 1, 64, 50, 91));
        let got = plan.run(&stream, &q.view(), &k.view(), &k.view(), &longer, &mut out, None);
        refuses(got.unwrap_err(), &["index", "91"]);
        let mut lse = DeviceBuffer::<f32>::uninit(context, 99, "lse").unwrap();
        let got = plan.run(&stream, &q.view(), &k.view(), &k.view(), &index(&this), &mut out, Some(&mut lse));
        refuses(got.unwrap_err(), &["softmax_lse", "[2, 50]"]);
    });
}
