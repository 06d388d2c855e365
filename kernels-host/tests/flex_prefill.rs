//! FlexPrefill's search on the device against the reference, the published results and its own promises.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::flex_prefill::{Search, split};
use common::{Device, Half, Inputs, OnDevice, assert_same, emulator, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, Error, FlexPrefillCompat, FlexPrefillOptions, Layout,
    Seqlens,
};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::flex_prefill::{HeadReport, Plan};
use lacuna_kernels_host::{DeviceBlockMask, DeviceTensor, block_sparse_attention};
use lacuna_reference::case;
use lacuna_reference::testing::{self, MaskBounds, Rng, ShapeLimits, Tensor, edge_lengths, golden};

fn single(q: usize, k: usize, heads: usize, heads_k: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

#[test]
fn golden_table_of_the_published_code() {
    let (shape, q, k) = golden::inputs(2, 1);
    let (q, k) = split(&q, &k);
    let shape = AttentionShape { head_dim: 64, ..shape };
    for_each(&golden::FLEX_PREFILL, |device, row| {
        let mut options = row.options();
        // In f32 rounding to the element type is the identity.
        options.compat.probe_round = false;
        options.softmax_scale = Some(0.25);
        let search = Search { shape: shape.clone(), q: q.clone(), k: k.clone(), options };
        let (mask, heads) = search.found(device, &case!(0, "{row:?}"));
        let report = heads[row.head];
        let says = format!("{row:?}: {report:?}");
        assert!(!report.dense && report.query_aware == row.query_aware, "{says}");
        assert_eq!(
            (report.vertical_blocks, report.slash_blocks),
            (row.vertical_blocks, row.slash_blocks),
            "{says}"
        );
        assert!((report.sqrt_jsd as f64 - row.sqrt_jsd).abs() < 1.5e-6, "{says}");
        assert_eq!(golden::flat_blocks(&mask, row.head), row.blocks(), "{says}");
    });
}

/// Flat attention: all logits are equal. Published, the pooled estimate ignores the causal ramp; corrected, it is exact.
#[test]
fn floor_of_the_divergence_of_flat_attention() {
    // As many digits as are given; 0.148 has three.
    let table = [
        (384, 0.1155, 5e-5),
        (512, 0.1008, 5e-5),
        (1024, 0.0718, 5e-5),
        (1025, 0.2117, 5e-5),
        (1088, 0.148, 5e-4),
        (2048, 0.0509, 5e-5),
    ];
    for_each(&table, |device, &(len, floor, digits)| {
        let shape = single(len, len, 1, 1, 64);
        let (q, k) = (
            Tensor::<bf16>::random(&mut Rng::new(1), len, 1, 64),
            Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |_, _, _| 0.0),
        );
        let mut options = FlexPrefillOptions { min_budget: 0, tau: 0.05, ..Default::default() };
        for published in [false, true] {
            options.compat.jsd_weighted = published;
            let search =
                Search { shape: shape.clone(), q: q.clone(), k: k.clone(), options: options.clone() };
            let (_, heads) = search.found(device, &case!(0, "{len} tokens"));
            let d = heads[0].sqrt_jsd;
            if published {
                assert!((d - floor).abs() < digits, "{len} tokens: {d}, not {floor}");
                assert!(!heads[0].query_aware, "{len} tokens");
            } else {
                let want = lacuna_reference::flex_prefill(&shape, &q.view(), &k.view(), &options).unwrap();
                let want = want.heads[0].unwrap().sqrt_jsd;
                assert!((d as f64 - want).abs() < 3e-4, "{len} tokens: {d}, not {want}");
                assert!(heads[0].query_aware, "{len} tokens");
            }
        }
    });
}

fn random_options(rng: &mut Rng) -> FlexPrefillOptions {
    let mut flag = || rng.chance(0.25);
    let compat = FlexPrefillCompat {
        count_div: flag(),
        slash_cover: flag(),
        tail_align: flag(),
        jsd_weighted: flag(),
        probe_round: false,
    };
    FlexPrefillOptions {
        gamma: *rng.choose(&[0.3, 0.5, 0.8, 0.9, 0.95]),
        tau: *rng.choose(&[0.0, 0.1, 0.3, 1.0, 1.0]),
        block_size: *rng.choose(&[64, 64, 128]),
        min_budget: *rng.choose(&[0, 0, 20, 64, 200]),
        max_budget: *rng.choose(&[None, Some(200), Some(300)]),
        softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2)]),
        gqa_interleave: rng.chance(0.5),
        qa_only: rng.chance(0.5),
        compat,
    }
}

/// Shapes of which most are searched: with past and without, short ones and empty ones among them.
fn random_shape(rng: &mut Rng, max_tokens: usize, head_dim: usize) -> AttentionShape {
    rng.shape(&ShapeLimits {
        max_tokens,
        max_batch: 2,
        max_heads_k: 2,
        group_sizes: &[1, 2],
        head_dims: &[head_dim],
    })
}

/// Heads that are searched, query-aware ones among them, and blocks that rounding may decide.
#[derive(Default)]
struct Tally {
    searched: AtomicUsize,
    query_aware: AtomicUsize,
    blocks: AtomicUsize,
    close_calls: AtomicUsize,
}

fn against_reference<T: Half>(device: &Device, seed: u64, tally: &Tally) {
    let mut rng = Rng::new(seed);
    let head_dim = *rng.choose(&[64, 64, 64, 128]);
    let shape = random_shape(&mut rng, if seed.is_multiple_of(8) { 900 } else { 380 }, head_dim);
    let options = random_options(&mut rng);
    let strength = *rng.choose(&[0.0, 1.0, 3.0]);
    let search = Search::<T>::spiky(&mut rng, &shape, &options, strength);
    let case = case!(seed, "{} {shape:?} {options:?}", T::DTYPE);
    let found = search.found(device, &case);
    let expected = search.expect();
    expected.assert(&found, &case);
    let add = |to: &AtomicUsize, n| to.fetch_add(n, Ordering::Relaxed);
    add(&tally.searched, found.1.iter().filter(|h| !h.dense).count());
    add(&tally.query_aware, found.1.iter().filter(|h| h.query_aware).count());
    add(&tally.blocks, found.0.indices().len());
    add(&tally.close_calls, expected.bounds.close_calls());
}

#[test]
fn equals_the_reference_on_random_batches() {
    const CASES: u64 = 200;
    let seeds: Vec<u64> = testing::seeds(CASES).collect();
    let tally = Tally::default();
    for_each(&seeds, |device, &seed| match seed % 2 {
        0 => against_reference::<bf16>(device, seed, &tally),
        _ => against_reference::<f16>(device, seed, &tally),
    });
    let [searched, query_aware, blocks, close_calls] =
        [&tally.searched, &tally.query_aware, &tally.blocks, &tally.close_calls]
            .map(|n| n.load(Ordering::Relaxed));
    let says = format!("{searched} heads, {query_aware} query-aware; {close_calls} of {blocks} blocks close");
    if seeds.len() as u64 == CASES {
        assert!(searched > 200 && query_aware > 50 && searched - query_aware > 50, "{says}");
        assert!(close_calls * 100 < blocks, "{says}");
    }
}

/// Rounding to the element type, where products are exact: what is rounded is then the same number.
#[test]
fn rounds_as_the_published_code_does() {
    let seeds: Vec<u64> = testing::seeds(16).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Block lengths and scales of powers of two: means and scaled numbers are exact until they are rounded.
        let past = *rng.choose(&[0, 64, 128]);
        let shape = single(256, 256 + past, 2, 1, 64);
        let mut options = FlexPrefillOptions {
            block_size: 64,
            min_budget: 0,
            gamma: *rng.choose(&[0.5, 0.9]),
            tau: *rng.choose(&[0.1, 1.0]),
            softmax_scale: Some(0.125),
            ..Default::default()
        };
        options.compat =
            FlexPrefillCompat { probe_round: true, jsd_weighted: rng.chance(0.5), ..Default::default() };
        let case = case!(seed, "{shape:?} {options:?}");
        let search = Search::<bf16>::integers(&mut rng, &shape, &options);
        let found = search.found(device, &case);
        search.expect().assert(&found, &case);
    });
}

#[test]
fn edges_of_blocks_and_past_lengths() {
    let cases: Vec<(usize, usize, usize)> = [64, 128]
        .into_iter()
        .flat_map(|b| edge_lengths(b).map(|len| (b, len)))
        .flat_map(|(b, len)| [0, 1, b, 777].map(|past| (b, len, past)))
        .filter(|&(b, len, past)| b == 64 || len < 500 || past == 1)
        .collect();
    for_each(&cases, |device, &(block_size, len, past)| {
        let seed = (block_size * 10_000 + len + past) as u64;
        let mut rng = Rng::new(seed);
        let shape = single(len, len + past, 1, 1, 64);
        let options = FlexPrefillOptions {
            block_size,
            min_budget: 0,
            tau: *rng.choose(&[0.0, 1.0]),
            gamma: 0.7,
            ..Default::default()
        };
        let search = Search::<bf16>::spiky(&mut rng, &shape, &options, 2.0);
        let case = case!(seed, "{shape:?} {options:?}");
        let found = search.found(device, &case);
        search.expect().assert(&found, &case);
    });
}

#[test]
fn head_groups_of_both_orders() {
    let cases: Vec<(usize, bool)> = [1, 2, 4, 8].into_iter().flat_map(|g| [(g, false), (g, true)]).collect();
    for_each(&cases, |device, &(group, gqa_interleave)| {
        let mut rng = Rng::new(group as u64);
        let shape = single(200, 300, 2 * group, 2, 64);
        let options = FlexPrefillOptions {
            block_size: 64,
            min_budget: 0,
            tau: 0.3,
            gamma: 0.8,
            gqa_interleave,
            ..Default::default()
        };
        let search = Search::<f16>::spiky(&mut rng, &shape, &options, 3.0);
        let case = case!(group as u64, "group of {group}, interleaved {gqa_interleave}");
        let found = search.found(device, &case);
        search.expect().assert(&found, &case);
    });
}

#[test]
fn more_gamma_never_drops_a_block_and_all_of_it_is_dense() {
    let seeds: Vec<u64> = testing::seeds(8).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let shape = random_shape(&mut rng, 400, 64);
        let mut options = FlexPrefillOptions { tau: 0.0, min_budget: 0, ..random_options(&mut rng) };
        let mut search = Search::<bf16>::spiky(&mut rng, &shape, &options, 2.0);
        let mut last: Option<BlockMask> = None;
        for gamma in [0.1, 0.5, 0.9, 0.99, 1.0] {
            options.gamma = gamma;
            search.options = options.clone();
            let case = case!(seed, "{shape:?} {options:?}");
            let (mask, _) = search.found(device, &case);
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
        let dense = BlockMask::dense(&shape, options.block_size, options.block_size, true).unwrap();
        assert_eq!(last, Some(dense), "gamma 1 is not dense: seed {seed}");
    });
}

/// A batch whose heads are of all kinds.
fn mixed() -> Search<bf16> {
    let (cu_q, cu_k) = (vec![0, 450, 450, 700, 717], vec![0, 650, 700, 950, 1800]);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap();
    let options =
        FlexPrefillOptions { min_budget: 64, tau: 0.15, gamma: 0.7, block_size: 64, ..Default::default() };
    let mut search = Search::<bf16>::spiky(&mut Rng::new(7), &shape, &options, 2.0);
    // Sharp attention in every other head, which mean queries do not predict.
    search.q = Tensor::from_fn(*search.q.view().layout(), |t, h, d| {
        search.q.view().row(t, h)[d].to_f64() * if h % 2 == 1 { 6.0 } else { 1.0 }
    });
    search
}

#[test]
fn a_sequence_does_not_depend_on_the_batch_nor_a_head_on_its_neighbours() {
    on_every_device(|device| {
        let all = mixed();
        let (mask, heads) = all.found(device, &case!(7));
        let kinds = |want: fn(&HeadReport) -> bool| heads.iter().any(want);
        assert!(
            kinds(|h| h.query_aware) && kinds(|h| h.dense) && kinds(|h| !h.query_aware && !h.dense),
            "{heads:?}"
        );
        for b in 0..all.shape.seqlens.batch() {
            let (q_range, k_range) = (all.shape.seqlens.q_range(b), all.shape.seqlens.k_range(b));
            // Heads in another order, those of a group staying together.
            let order = [3, 2, 0, 1];
            let alone = Search {
                shape: single(q_range.len(), k_range.len(), 4, 2, 64),
                q: all.q.tokens(q_range).heads(&order),
                k: all.k.tokens(k_range).heads(&[1, 0]),
                options: all.options.clone(),
            };
            let (one, one_heads) = alone.found(device, &case!(7, "sequence {b}"));
            for (at, &h) in order.iter().enumerate() {
                assert_eq!(one_heads[at], heads[b * 4 + h], "sequence {b}, head {h}");
                for m in 0..mask.m_blocks(b) {
                    assert_eq!(one.row(0, at, m), mask.row(b, h, m), "sequence {b}, head {h}, block {m}");
                }
            }
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let search = mixed();
    let run = |scheduler| {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        search.found(&Device { context, margin: 0 }, &case!(7, "{scheduler:?}"))
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2), Scheduler::Adversarial(3)] {
        assert_eq!(run(scheduler), want, "{scheduler:?}");
    }
}

/// Equal keys: every column and diagonal that the whole probe sees weighs exactly the same.
#[test]
fn ties_go_to_the_lowest_index() {
    let cases = [(700, 64), (2200, 128)];
    for_each(&cases, |device, &(len, block_size)| {
        let shape = single(len, len, 1, 1, 64);
        let x = Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |_, _, d| 0.1 * d as f64 - 2.7);
        let options =
            FlexPrefillOptions { block_size, min_budget: 0, gamma: 0.4, tau: 0.0, ..Default::default() };
        let search = Search { shape, q: x.clone(), k: x, options };
        let (mask, heads) = search.found(device, &case!(0, "{len} tokens"));
        let (nv, ns) = (heads[0].vertical_blocks, heads[0].slash_blocks);
        let blocks = len.div_ceil(block_size);
        assert!(nv > 1 && nv + 1 < blocks && ns > 1 && ns + 1 < blocks, "{heads:?}");
        for m in 0..blocks {
            let want: Vec<u32> = (0..=m).filter(|&n| n < nv || m - n <= ns).map(|n| n as u32).collect();
            assert_eq!(mask.row(0, 0, m), want, "{len} tokens, row {m}");
        }
    });
}

#[test]
fn finds_a_needle_the_probe_asks_for() {
    let (len, needle) = (1200, 400..416);
    on_every_device(|device| {
        let shape = single(len, len, 1, 1, 64);
        let mut rng = Rng::new(11);
        let mut random = |along: &dyn Fn(usize) -> f64| {
            Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
                0.3 * rng.normal() + if d == 0 { along(t) } else { 0.0 }
            })
        };
        let q = random(&|_| 8.0);
        let k = random(&|t| if needle.contains(&t) { 12.0 } else { 0.0 });
        let options = FlexPrefillOptions {
            block_size: 64,
            min_budget: 128,
            gamma: 0.5,
            tau: 0.0,
            ..Default::default()
        };
        let (mask, _) = Search { shape, q, k, options }.found(device, &case!(11));
        assert!((7..19).all(|m| mask.row(0, 0, m).contains(&6)));
    });
}

#[test]
fn forced_blocks_are_there_whatever_the_scores() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let shape = single(300, 300 + 64 * (seed as usize % 3) + seed as usize, 2, 1, 64);
        let options = FlexPrefillOptions {
            block_size: 64,
            min_budget: 0,
            gamma: 0.01,
            tau: *rng.choose(&[0.0, 1.0]),
            qa_only: true,
            ..Default::default()
        };
        let mut search = Search::<bf16>::spiky(&mut rng, &shape, &options, 3.0);
        if seed == 5 {
            // Nothing is promised of what else is kept.
            search.k.poison(17..18);
            search.q.poison(299..300);
        }
        let (mask, heads) = search.found(device, &case!(seed));
        if seed == 5 {
            assert!(heads.iter().all(|h| h.sqrt_jsd.is_nan() && !h.query_aware), "{heads:?}");
        }
        let past = shape.seqlens.past(0) as usize;
        for h in 0..2 {
            for m in 0..mask.m_blocks(0) {
                let row = mask.row(0, h, m);
                let (t0, t1) = (past + m * 64, past + ((m + 1) * 64).min(300) - 1);
                assert!(
                    row.contains(&0) && (t0 / 64..=t1 / 64).all(|n| row.contains(&(n as u32))),
                    "{row:?}"
                );
                assert!(row.iter().all(|&n| n as usize * 64 <= t1), "{row:?}");
            }
        }
    });
}

/// A mask that is filled again, by another search of the same plan, holds nothing of the first.
#[test]
fn masks_are_filled_again_and_again() {
    on_every_device(|device| {
        let context = &device.context;
        let stream = context.default_stream();
        let shape = single(400, 500, 2, 1, 64);
        let options =
            FlexPrefillOptions { block_size: 64, min_budget: 0, gamma: 0.6, tau: 0.3, ..Default::default() };
        let mut plan = Plan::<f16>::new(context, &shape, &options).unwrap();
        let mut mask = DeviceBlockMask::for_search(context, &shape, 64, true).unwrap();
        for (seed, strength) in [(1, 0.0), (2, 3.0), (1, 0.0)] {
            let search = Search::<f16>::spiky(&mut Rng::new(seed), &shape, &options, strength);
            let (q, k) = (
                OnDevice::copy(device, &search.q.view(), "q"),
                OnDevice::copy(device, &search.k.view(), "k"),
            );
            plan.run(&stream, &q.view(), &k.view(), &mut mask).unwrap();
            let (want, heads) = search.found(device, &case!(seed));
            assert_eq!(mask.to_host(&stream).unwrap(), want);
            assert_eq!(mask.num_blocks(&stream).unwrap(), want.indices().len());
            assert_eq!(plan.reports(&stream).unwrap(), heads);
            // On addresses, the same.
            let (indptr, indices) = (mask.indptr(), mask.indices());
            // SAFETY: the tensors and the mask of the plan's shape.
            unsafe { plan.run_raw(stream.raw(), q.raw(), k.raw(), indptr, indices).unwrap() };
            assert_eq!(mask.to_host(&stream).unwrap(), want);
        }
    });
}

/// Attention takes the mask from the device's memory, room to spare and all.
#[test]
fn attention_reads_what_was_found() {
    on_every_device(|device| {
        let context = &device.context;
        let stream = context.default_stream();
        let search = mixed();
        let (q, k) =
            (OnDevice::copy(device, &search.q.view(), "q"), OnDevice::copy(device, &search.k.view(), "k"));
        let mut mask = DeviceBlockMask::for_search(context, &search.shape, 64, true).unwrap();
        let mut plan = Plan::<bf16>::new(context, &search.shape, &search.options).unwrap();
        plan.run(&stream, &q.view(), &k.view(), &mut mask).unwrap();
        let host = mask.to_host(&stream).unwrap();
        let uploaded = DeviceBlockMask::from_host(context, &host).unwrap();
        assert!(uploaded.capacity() < mask.capacity());
        let attention = AttentionOptions::default();
        let plan =
            block_sparse_attention::Plan::<bf16>::new(context, &search.shape, &attention, 64, 64).unwrap();
        let inputs = Inputs::of(search.q.clone(), search.k.clone(), search.k.clone());
        let [got, want] = [&mask, &uploaded].map(|mask| {
            let attend = inputs.run(device, |stream, q, k, v, out, lse| {
                plan.run(stream, &q.view(), &k.view(), &v.view(), mask, &mut out.view_mut(), Some(lse))
            });
            common::unwrap(attend, &case!(7))
        });
        assert_same(&got, &want, &case!(7));
    });
}

#[test]
fn launches_are_as_many_as_are_said() {
    let (long, short) = (single(300, 300, 2, 1, 64), single(100, 100, 2, 1, 64));
    for (shape, tau, launches) in [(&long, 0.1, 10), (&long, 0.0, 8), (&short, 0.1, 4)] {
        let options = FlexPrefillOptions { block_size: 64, min_budget: 0, tau, ..Default::default() };
        let (context, driver) = emulator(Options::default());
        let search = Search::<bf16>::spiky(&mut Rng::new(1), shape, &options, 1.0);
        search.found(&Device { context: context.clone(), margin: 0 }, &case!(1));
        let plan = Plan::<bf16>::new(&context, shape, &options).unwrap();
        // Every kernel is launched once.
        let kernels = driver.reports().len();
        assert_eq!((plan.launches(), kernels), (launches, launches), "{shape:?}, tau {tau}");
        const { assert!(Plan::<bf16>::MAX_LAUNCHES <= 12) };
        assert!(launches <= Plan::<bf16>::MAX_LAUNCHES);
        for report in driver.reports() {
            assert_eq!(report.counters.totals().local_bytes, 0, "{}: local memory", report.kernel);
        }
    }
}

#[test]
fn workspace_is_of_the_order_of_heads_times_keys() {
    on_every_device(|device| {
        let bytes = |len: usize| {
            let shape = single(len, len, 4, 2, 64);
            let plan = Plan::<bf16>::new(&device.context, &shape, &FlexPrefillOptions::default()).unwrap();
            // Less the bits, of which there is one per block of the mask.
            plan.workspace_bytes() - (len / 128).pow(2) / 8 * 4
        };
        let (short, long) = (bytes(1 << 14), bytes(1 << 16));
        // Scores of tokens, means of keys, partial sums of the probe: a few floats per head and token.
        assert!(long <= 16 * 4 * (1 << 16), "{long}");
        assert!(long <= short * 4 + short / 2, "{short} {long}");
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let shape = single(300, 300, 2, 1, 64);
        let options = FlexPrefillOptions { block_size: 64, ..Default::default() };
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("flex_prefill: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let with = |block_size| FlexPrefillOptions { block_size, ..options.clone() };
        for block_size in [32, 256] {
            let why = Plan::<bf16>::new(context, &shape, &with(block_size)).unwrap_err();
            refuses(why, &["block_size", "64 or 128", &block_size.to_string()]);
        }
        let gamma = FlexPrefillOptions { gamma: 0.0, ..options.clone() };
        refuses(Plan::<bf16>::new(context, &shape, &gamma).unwrap_err(), &["gamma"]);
        let scale = FlexPrefillOptions { softmax_scale: Some(1e30), ..options.clone() };
        refuses(Plan::<bf16>::new(context, &shape, &scale).unwrap_err(), &["softmax_scale"]);
        refuses(Plan::<f32>::new(context, &shape, &options).unwrap_err(), &["dtype", "f32"]);
        let odd = single(300, 300, 2, 1, 80);
        refuses(Plan::<bf16>::new(context, &odd, &options).unwrap_err(), &["head_dim", "80"]);

        let mut plan = Plan::<bf16>::new(context, &shape, &options).unwrap();
        let tensor = |tokens, heads| {
            DeviceTensor::<bf16>::uninit(context, Layout::thd(tokens, heads, 64), "tensor").unwrap()
        };
        let (q, k, other) = (tensor(300, 2), tensor(300, 1), tensor(299, 1));
        let stream = context.default_stream();
        let mask = |shape: &AttentionShape, block_size, causal| {
            DeviceBlockMask::for_search(context, shape, block_size, causal).unwrap()
        };
        let mut fits = mask(&shape, 64, true);
        let mut run = |k: &DeviceTensor<bf16>, mask: &mut DeviceBlockMask| {
            plan.run(&stream, &q.view(), &k.view(), mask).unwrap_err()
        };
        refuses(run(&other, &mut fits), &["k", "299"]);
        refuses(run(&k, &mut mask(&shape, 128, true)), &["block_mask", "128"]);
        refuses(run(&k, &mut mask(&single(300, 301, 2, 1, 64), 64, true)), &["block_mask", "301"]);
        let empty = BlockMask::from_csr(&shape, 64, 64, vec![0; 11], vec![]).unwrap();
        let mut full = DeviceBlockMask::from_host(context, &empty).unwrap();
        refuses(run(&k, &mut full), &["block_mask", "room for 30"]);
        // A refusal leaves the mask as it was.
        assert!(fits.to_host(&stream).unwrap().indices().is_empty());
        assert!(full.to_host(&stream).unwrap().indices().is_empty());
    });
}
