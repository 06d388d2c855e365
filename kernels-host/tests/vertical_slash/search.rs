//! The search for columns and diagonals.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Error, Layout, Seqlens, VerticalSlashOptions};
use lacuna_emulator::{Options as EmulatorOptions, Scheduler};
use lacuna_kernels_host::vertical_slash::{AttentionPlan, DeviceVerticalSlashIndex, SearchPlan};
use lacuna_kernels_host::{DevicePtr, DeviceTensor, RawTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, ShapeLimits, Tensor, edge_lengths};

use crate::common::vertical_slash::{Search, sees};
use crate::common::{self, Device, Half, Inputs, for_each, on_every_device};

const HEAD_DIMS: [usize; 2] = [64, 128];

fn shape(heads: usize, heads_k: usize, head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(seqlen_q, seqlen_k).unwrap()).unwrap()
}

/// Options that leave something to choose in a few hundred tokens.
fn random_options(rng: &mut Rng) -> VerticalSlashOptions {
    VerticalSlashOptions {
        vertical_size: *rng.choose(&[1, 31, 50, 100, 1000]),
        slash_size: *rng.choose(&[1, 51, 70, 100, 1000]),
        last_q: *rng.choose(&[1, 7, 16, 33, 64, 64, 100, 128]),
        sink: *rng.choose(&[0, 1, 30, 40]),
        recent: *rng.choose(&[1, 2, 30, 100]),
        softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2)]),
        gqa_interleave: rng.chance(0.4),
    }
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(50).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let limits = ShapeLimits {
            max_tokens: 180,
            max_heads_k: 2,
            group_sizes: &[1, 2, 4, 8],
            head_dims: &[head_dim],
            ..Default::default()
        };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let case = case!(seed, "{} {shape:?} {options:?}", T::DTYPE);
        Search::<T>::random(&mut rng, &shape, options).check(device, &case);
    });
}

crate::common::seeded!();

#[test]
fn edge_lengths_after_any_past() {
    let mut cases = Vec::new();
    for len in [1, 2].into_iter().chain(edge_lengths(64)) {
        cases.extend([0, 1, 64, 777].map(|past| (len, len + past)));
    }
    // More queries than keys: the first rows of the probe see nothing, or no row does.
    cases.extend([(100, 90), (300, 60), (64, 63), (200, 1), (5, 0), (0, 5)]);
    for_each(&cases, |device, &(seqlen_q, seqlen_k)| {
        let seed = (seqlen_q * 1000 + seqlen_k) as u64;
        let mut rng = Rng::new(seed);
        let shape = shape(1, 1, *rng.choose(&HEAD_DIMS), seqlen_q, seqlen_k);
        let options = VerticalSlashOptions { vertical_size: 40, slash_size: 60, ..Default::default() };
        let case = case!(seed, "{seqlen_q} queries, {seqlen_k} keys");
        Search::<f16>::random(&mut rng, &shape, options).check(device, &case);
    });
}

#[test]
fn ties_go_to_the_lowest_index() {
    // Equal keys weigh alike: every column before the probe rows, and every offset that all of them see, scores the same.
    on_every_device(|device| {
        for (seqlen_q, seqlen_k, last_q) in [(400, 400, 64), (64, 300, 64), (128, 500, 128), (1, 200, 1)] {
            let shape = shape(2, 1, 64, seqlen_q, seqlen_k);
            let options = VerticalSlashOptions {
                vertical_size: 45,
                slash_size: 60,
                last_q,
                sink: 0,
                recent: 1,
                ..Default::default()
            };
            let mut search = Search::<bf16>::random(&mut Rng::new(1), &shape, options);
            search.k = Tensor::from_fn(Layout::thd(seqlen_k, 1, 64), |_, _, d| (d % 3) as f64 - 1.0);
            let index = search.run(device).unwrap();
            for head in 0..2 {
                let (columns, slashes) = index.kept(0, head);
                assert!(columns.iter().copied().eq(0..45), "{seqlen_q} {seqlen_k}: {columns:?}");
                assert!(slashes.iter().copied().eq((0..60).rev()), "{seqlen_q} {seqlen_k}: {slashes:?}");
            }
        }
    });
}

#[test]
fn what_must_be_kept_is() {
    // All weight lies on one key and on one diagonal, which are found beside what is kept in any case.
    on_every_device(|device| {
        let (len, needle, offset) = (600, 333u32, 250u32);
        let shape = shape(1, 1, 64, len, len);
        let options = VerticalSlashOptions { vertical_size: 31, slash_size: 101, ..Default::default() };
        // Key j points in its own direction; queries towards the needle's, or towards that of the key `offset` before.
        let sign = |key: usize, d: usize| if d < 63 && key >> (d % 10) & 1 == 1 { 1.0 } else { -1.0 };
        let k = Tensor::<f16>::from_fn(Layout::thd(len, 1, 64), |j, _, d| sign(j, d));
        let towards = |key: fn(usize, usize) -> usize, by: usize| {
            Tensor::<f16>::from_fn(Layout::thd(len, 1, 64), |i, _, d| 8.0 * sign(key(i, by), d))
        };
        let columns =
            Search { q: towards(|_, n| n, needle as usize), k: k.clone(), shape: shape.clone(), options };
        let index = columns.run(device).unwrap();
        assert!(index.kept(0, 0).0.iter().copied().eq((0..30).chain([needle])), "{:?}", index.kept(0, 0));
        let slashes = Search { q: towards(|i, o| i.saturating_sub(o), offset as usize), k, ..columns };
        let index = slashes.run(device).unwrap();
        let want = (0..100).chain([offset]).rev();
        assert!(index.kept(0, 0).1.iter().copied().eq(want), "{:?}", index.kept(0, 0));
    });
}

#[test]
fn what_is_kept_in_any_case_may_be_all() {
    on_every_device(|device| {
        let shape = shape(1, 1, 64, 300, 300);
        // More forced than kept: the first of them.
        let options = VerticalSlashOptions {
            vertical_size: 35,
            slash_size: 55,
            sink: 200,
            recent: 1000,
            ..Default::default()
        };
        let index = Search::<bf16>::random(&mut Rng::new(2), &shape, options).run(device).unwrap();
        assert!(index.kept(0, 0).0.iter().copied().eq(0..35));
        assert!(index.kept(0, 0).1.iter().copied().eq((0..55).rev()));
    });
}

#[test]
fn head_ratios_and_permutations() {
    let cases: Vec<(usize, bool)> =
        [1, 2, 4, 8].into_iter().flat_map(|group| [false, true].map(|i| (group, i))).collect();
    for_each(&cases, |device, &(group, gqa_interleave)| {
        let mut rng = Rng::new(group as u64);
        let shape = shape(2 * group, 2, 64, 90, 400);
        let options = VerticalSlashOptions {
            vertical_size: 40,
            slash_size: 60,
            recent: 10,
            gqa_interleave,
            ..Default::default()
        };
        let search = Search::<bf16>::random(&mut rng, &shape, options);
        let case = case!(group as u64, "{group} to one, interleaved {gqa_interleave}");
        let index = search.check(device, &case);
        // The KV heads in the other order, and with them the query heads that read them.
        let order: Vec<usize> =
            (0..2 * group).map(|h| if gqa_interleave { h ^ 1 } else { (h + group) % (2 * group) }).collect();
        let swapped = Search { q: search.q.heads(&order), k: search.k.heads(&[1, 0]), ..search };
        let other = swapped.run(device).unwrap();
        for (h, &from) in order.iter().enumerate() {
            assert_eq!(other.kept(0, h), index.kept(0, from), "head {h} {case}");
        }
    });
}

#[test]
fn a_sequence_does_not_depend_on_the_batch() {
    let seeds: Vec<u64> = testing::seeds(8).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let head_dims = [*rng.choose(&HEAD_DIMS)];
        let limits =
            ShapeLimits { max_tokens: 250, max_heads_k: 2, head_dims: &head_dims, ..Default::default() };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let search = Search::<bf16>::random(&mut rng, &shape, options);
        let case = case!(seed, "{shape:?}");
        let all = common::unwrap(search.run(device), &case);
        for b in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            let seqlens = Seqlens::single(q_range.len(), k_range.len()).unwrap();
            let one =
                AttentionShape::new(shape.num_heads, shape.num_heads_k, shape.head_dim, seqlens).unwrap();
            let alone = Search {
                q: search.q.tokens(q_range),
                k: search.k.tokens(k_range),
                shape: one,
                options: search.options.clone(),
            };
            let got = common::unwrap(alone.run(device), &case);
            for h in 0..shape.num_heads {
                assert_eq!(got.kept(0, h), all.kept(b, h), "sequence {b} head {h} {case}");
            }
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_an_entry() {
    for_each(&testing::seeds(4).collect::<Vec<_>>(), |_, &seed| {
        let mut rng = Rng::new(seed);
        let shape = shape(2, 1, *rng.clone().choose(&HEAD_DIMS), 100, 900);
        let options = VerticalSlashOptions { vertical_size: 100, slash_size: 150, ..Default::default() };
        let search = Search::<f16>::random(&mut rng, &shape, options);
        let run = |scheduler| {
            let (context, _) = common::emulator(EmulatorOptions { scheduler, ..Default::default() });
            search.run(&Device { context, margin: 0 }).unwrap()
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in [Scheduler::Random(seed), Scheduler::Adversarial(seed)] {
            assert_eq!(run(scheduler), want, "{scheduler:?}");
        }
    });
}

#[test]
fn attention_follows_the_search_without_the_host() {
    // Slashes are those of the least offsets, or leave gaps for being few.
    let cases = [(1, 1, 300, 300, 60), (4, 2, 150, 500, 60), (1, 1, 70, 5000, 10)];
    for_each(&cases, |device, &(heads, heads_k, seqlen_q, seqlen_k, recent)| {
        let mut rng = Rng::new(seqlen_k as u64);
        let shape = shape(heads, heads_k, *rng.choose(&HEAD_DIMS), seqlen_q, seqlen_k);
        let options =
            VerticalSlashOptions { vertical_size: 40, slash_size: 60, recent, ..Default::default() };
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let context = &device.context;
        let plain = AttentionOptions::default();
        let mut search = SearchPlan::<bf16>::new(context, &shape, &options).unwrap();
        let attention = AttentionPlan::<bf16>::new(context, &shape, &plain).unwrap();
        let mut index = search.empty_index().unwrap();
        let got = inputs.run(device, |stream, q, k, v, out, lse| {
            search.run(stream, &q.view(), &k.view(), &mut index)?;
            attention.run(stream, &q.view(), &k.view(), &v.view(), &index, &mut out.view_mut(), Some(lse))
        });
        let index = index.to_host(&context.default_stream()).unwrap();
        assert!(index.density() < 1.0, "{}", index.density());
        let case = case!(seqlen_k as u64, "{shape:?}");
        inputs.expect(&shape, &plain, sees(&index)).assert(got, &case);
    });
}

#[test]
fn counters_state_the_design() {
    let (context, driver) = common::emulator(EmulatorOptions::default());
    let device = Device { context, margin: 0 };
    let shape = shape(4, 1, 64, 300, 300);
    let options = VerticalSlashOptions { vertical_size: 40, slash_size: 60, ..Default::default() };
    Search::<bf16>::random(&mut Rng::new(1), &shape, options).run(&device).unwrap();
    let mut kernels: Vec<_> = driver.reports().into_iter().map(|report| report.kernel).collect();
    kernels.sort();
    assert_eq!(kernels, ["probe_bf16_d64_lse", "probe_bf16_d64_sums", "top_k_tokens"]);
    // Every entry of either list, and its count, once.
    let stored = driver.report("top_k_tokens").unwrap().counters.opcode("st.global").global_bytes;
    assert_eq!(stored, 4 * 4 * (40 + 1 + 60 + 1));
    // Scores, and nothing that grows with the square of the keys.
    let long = AttentionShape::new(2, 1, 128, Seqlens::single(4096, 65536).unwrap()).unwrap();
    let plan = SearchPlan::<bf16>::new(&device.context, &long, &VerticalSlashOptions::default()).unwrap();
    assert!(plan.workspace_bytes() <= 2 * 65536 * 12, "{}", plan.workspace_bytes());
    assert_eq!(plan.empty_index().unwrap().bytes(), 2 * (1000 + 6096 + 2) * 4);
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let this = shape(2, 1, 64, 50, 90);
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("vertical_slash: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let plain = VerticalSlashOptions::default();
        let new =
            |options: &VerticalSlashOptions| SearchPlan::<bf16>::new(context, &this, options).map(|_| ());
        refuses(new(&VerticalSlashOptions { last_q: 129, ..plain.clone() }).unwrap_err(), &["last_q", "128"]);
        refuses(new(&VerticalSlashOptions { last_q: 0, ..plain.clone() }).unwrap_err(), &["last_q"]);
        refuses(new(&VerticalSlashOptions { recent: 0, ..plain.clone() }).unwrap_err(), &["recent"]);
        let odd = shape(2, 1, 80, 50, 90);
        refuses(SearchPlan::<bf16>::new(context, &odd, &plain).unwrap_err(), &["head_dim", "80"]);
        refuses(SearchPlan::<f32>::new(context, &this, &plain).unwrap_err(), &["dtype", "f32"]);

        let mut plan = SearchPlan::<bf16>::new(context, &this, &plain).unwrap();
        let tensor = |layout| DeviceTensor::<bf16>::uninit(context, layout, "tensor").unwrap();
        let (q, k) = (tensor(Layout::thd(50, 2, 64)), tensor(Layout::thd(90, 1, 64)));
        let stream = context.default_stream();
        let mut small = DeviceVerticalSlashIndex::empty(context, &this, 30, 50).unwrap();
        let got = plan.run(&stream, &q.view(), &k.view(), &mut small);
        refuses(got.unwrap_err(), &["room", "[90, 90]", "[30, 50]"]);
        let other = shape(2, 1, 64, 50, 91);
        // SAFETY: refused before anything is launched.
        let raw = unsafe {
            plan.run_raw(
                stream.raw(),
                RawTensor::thd(DevicePtr::NULL, 2, 64),
                RawTensor::thd(DevicePtr::NULL, 1, 64),
                &small.raw(),
            )
        };
        refuses(raw.unwrap_err(), &["room", "[90, 90]", "[30, 50]"]);
        let mut other = DeviceVerticalSlashIndex::empty(context, &other, 90, 90).unwrap();
        refuses(plan.run(&stream, &q.view(), &k.view(), &mut other).unwrap_err(), &["index", "91"]);
        let mut index = plan.empty_index().unwrap();
        refuses(plan.run(&stream, &k.view(), &k.view(), &mut index).unwrap_err(), &["q", "[50, 2, 64]"]);
    });
}
