//! XAttention's search on the device against the reference, the published results and its own promises.

mod common;

use common::attention::Inputs;
use common::scores::{Call, in_halves};
use common::x_attention::random_options;
use common::{Device, Half, OnDevice, assert_same, emulator, for_each, on_every_device, unwrap};
use half::{bf16, f16};
use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, Error, Layout, Seqlens, Threshold, XAttentionCompat,
    XAttentionOptions,
};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::block_sparse_attention;
use lacuna_kernels_host::x_attention::Plan;
use lacuna_kernels_host::{DeviceBlockMask, DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, MaskBounds, Rng, ShapeLimits, Tensor, edge_lengths, golden};

fn single(q: usize, k: usize, heads: usize, heads_k: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, 64, Seqlens::single(q, k).unwrap()).unwrap()
}

fn of(stride: usize, block_size: usize, threshold: f32) -> XAttentionOptions {
    let threshold = Threshold::Scalar(threshold);
    XAttentionOptions { stride, block_size, threshold, ..Default::default() }
}

#[test]
fn golden_rows_of_the_published_code() {
    let (shape, q, k) = golden::inputs(2, 2);
    let (q, k) = in_halves(&q, &k);
    let shape = AttentionShape { head_dim: 64, ..shape };
    let rows: Vec<_> = golden::x_attention().collect();
    for_each(&rows, |device, row| {
        let options = XAttentionOptions { softmax_scale: Some(0.25), ..row.options() };
        let call = Call { shape: shape.clone(), q: q.clone(), k: k.clone(), options, causal: true };
        let mask = unwrap(call.search(device), &case!(0, "{row:?}"));
        assert_eq!(golden::bit_rows(&mask, row.head), row.rows, "{row:?}");
    });
}

fn against_reference<T: Half>(device: &Device, seed: u64) {
    let mut rng = Rng::new(seed);
    let limits = ShapeLimits {
        max_batch: 2,
        max_tokens: if seed.is_multiple_of(8) { 700 } else { 300 },
        max_heads_k: 2,
        group_sizes: &[1, 2],
        head_dims: if seed.is_multiple_of(5) { &[128] } else { &[64] },
    };
    let shape = rng.shape(&limits);
    let options = random_options(&mut rng, shape.num_heads);
    let causal = rng.chance(0.8);
    let case = case!(seed, "{} causal {causal} {shape:?} {options:?}", T::DTYPE);
    let call = Call::<T>::random(&mut rng, shape, options, causal);
    call.bounds().assert_contain(&unwrap(call.search(device), &case), &case);
}

#[test]
fn equals_the_reference_on_random_batches() {
    let seeds: Vec<u64> = testing::seeds(200).collect();
    for_each(&seeds, |device, &seed| match seed % 2 {
        0 => against_reference::<bf16>(device, seed),
        _ => against_reference::<f16>(device, seed),
    });
}

#[test]
fn edges_of_blocks_and_past_lengths() {
    let mut cases = Vec::new();
    for len in edge_lengths(64).into_iter().chain([1]) {
        for past in [0, 1, 64, 777] {
            cases.push((len, past));
        }
    }
    for_each(&cases, |device, &(len, past)| {
        let seed = (len + past) as u64;
        let shape = single(len, len + past, 1, 1);
        let call = Call::<bf16>::random(&mut Rng::new(seed), shape, of(8, 64, 0.6), true);
        let case = case!(seed, "{:?} {:?}", call.shape, call.options);
        let mask = unwrap(call.search(device), &case);
        call.bounds().assert_contain(&mask, &case);
        // Block 0 and the blocks of the row's own positions, whatever they score.
        for m in 0..mask.m_blocks(0) {
            let (first, last) = (past + 64 * m, past + (64 * (m + 1)).min(len) - 1);
            let forced = (first / 64..=last / 64).chain([0]);
            let row = mask.row(0, 0, m);
            assert!(forced.map(|n| n as u32).all(|n| row.contains(&n)), "{row:?}  {case}");
        }
    });
}

#[test]
fn a_larger_threshold_never_drops_a_block() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let compat = if seed % 2 == 0 { XAttentionCompat::ORIGINAL } else { XAttentionCompat::default() };
        let options = XAttentionOptions { chunk_size: Some(128), compat, ..of(8, 64, 0.0) };
        let past = if seed % 2 == 0 { 0 } else { 100 };
        let mut call = Call::<bf16>::random(&mut rng, single(500, 500 + past, 2, 1), options, true);
        let mut last: Option<BlockMask> = None;
        for threshold in [0.0, 0.2, 0.5, 0.9, 0.99, 1.0] {
            call.options.threshold = Threshold::Scalar(threshold);
            let case = case!(seed, "{:?}", call.options);
            let mask = unwrap(call.search(device), &case);
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
        if past > 0 {
            assert_eq!(last.unwrap(), BlockMask::dense(&call.shape, 64, 64, true).unwrap());
        }
    });
}

#[test]
fn ties_go_to_the_lowest_index() {
    for_each(&[(4, 128), (8, 64), (16, 64)], |device, &(stride, block_size)| {
        let len = 9 * block_size;
        let mut call =
            Call::<bf16>::random(&mut Rng::new(3), single(len, len, 1, 1), of(stride, block_size, 0.6), true);
        call.k = Tensor::from_fn(Layout::thd(len, 1, 64), |_, _, d| 0.1 * d as f64 - 3.0);
        let mask = unwrap(call.search(device), &case!(3, "stride {stride}"));
        let mut kept = 0;
        for m in 2..9 {
            let (own, others) = mask.row(0, 0, m).split_last().unwrap();
            assert_eq!(*own as usize, m);
            assert!(others.iter().zip(0..).all(|(&n, want)| n == want), "{others:?}");
            kept = others.len();
        }
        assert!(kept > 2 && kept < 8, "{kept}");
    });
}

/// A run of equal keys along the direction of all queries, or of those in the middle alone: every row that asks finds it.
#[test]
fn finds_a_planted_run() {
    let (len, block) = (700, 64);
    let cases = [(4, false), (8, false), (16, false), (8, true)];
    for_each(&cases, |device, &(stride, middle)| {
        let mut rng = Rng::new(stride as u64);
        let asks = |t: usize| !middle || (320..448).contains(&t);
        let planted = 2 * block..2 * block + stride;
        let mut along = |of: &dyn Fn(usize) -> bool| {
            Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
                0.3 * rng.normal() + if d == 0 && of(t) { 14.0 } else { 0.0 }
            })
        };
        let (q, k) = (along(&asks), along(&|t| planted.contains(&t)));
        let call =
            Call { shape: single(len, len, 1, 1), q, k, options: of(stride, block, 0.5), causal: true };
        let mask = unwrap(call.search(device), &case!(stride as u64));
        for m in 2..mask.m_blocks(0) {
            let row = mask.row(0, 0, m);
            assert!(!asks(m * block) || row.contains(&2), "stride {stride}, row {m}: {row:?}");
        }
    });
}

/// One key that stands out is seen in one of `stride` pairs: its group's logit rises by a `stride`-th of its own.
#[test]
fn a_single_key_is_seen_through_a_mean() {
    let (len, block) = (640, 64);
    for_each(&[4, 8, 16], |device, &stride| {
        let found = |advantage: f64| {
            let mut rng = Rng::new(stride as u64);
            let mut along = |of: &dyn Fn(usize) -> f64| {
                Tensor::<bf16>::from_fn(Layout::thd(len, 1, 64), |t, _, d| {
                    0.05 * rng.normal() + if d == 0 { of(t) } else { 0.0 }
                })
            };
            // Logits are products over 8: the square root of 64.
            let q = along(&|_| 8.0);
            let k = along(&|t| if t == 2 * block + 5 { advantage } else { 0.0 });
            let call =
                Call { shape: single(len, len, 1, 1), q, k, options: of(stride, block, 0.2), causal: true };
            let mask = unwrap(call.search(device), &case!(stride as u64));
            (3..10).all(|m| mask.row(0, 0, m).contains(&2))
        };
        // The advantage that exact attention would need grows with the stride.
        let least = (1..=20).map(|n| 6.0 * n as f64).find(|&advantage| found(advantage)).unwrap();
        let limits = stride as f64 * 2.0..stride as f64 * 6.5;
        assert!(limits.contains(&least), "stride {stride}: found from {least} on");
    });
}

/// A batch with pasts of all kinds.
fn mixed() -> Call<bf16> {
    let (cu_q, cu_k) = (vec![0, 450, 450, 700, 717], vec![0, 650, 700, 950, 1800]);
    let shape = AttentionShape::new(4, 2, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap();
    let threshold = Threshold::PerHead(vec![0.5, 0.9, 0.7, 0.3]);
    Call::random(&mut Rng::new(7), shape, XAttentionOptions { threshold, ..of(8, 64, 0.0) }, true)
}

#[test]
fn a_sequence_does_not_depend_on_the_batch_nor_a_head_on_its_neighbours() {
    on_every_device(|device| {
        let all = mixed();
        let mask = unwrap(all.search(device), &case!(7));
        for b in 0..all.shape.seqlens.batch() {
            let (q_range, k_range) = (all.shape.seqlens.q_range(b), all.shape.seqlens.k_range(b));
            // Heads in another order, those of a group staying together.
            let order = [3, 2, 0, 1];
            let threshold = Threshold::PerHead(order.map(|h| all.options.threshold.of_head(h)).to_vec());
            let alone = Call {
                shape: single(q_range.len(), k_range.len(), 4, 2),
                q: all.q.tokens(q_range).heads(&order),
                k: all.k.tokens(k_range).heads(&[1, 0]),
                options: XAttentionOptions { threshold, ..all.options.clone() },
                causal: true,
            };
            let one = unwrap(alone.search(device), &case!(7, "sequence {b}"));
            for (at, &h) in order.iter().enumerate() {
                for m in 0..mask.m_blocks(b) {
                    assert_eq!(one.row(0, at, m), mask.row(b, h, m), "sequence {b}, head {h}, block {m}");
                }
            }
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_block() {
    let call = mixed();
    let run = |scheduler| {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        unwrap(call.search(&Device { context, margin: 0 }), &case!(7, "{scheduler:?}"))
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2), Scheduler::Adversarial(3)] {
        assert_eq!(run(scheduler), want, "{scheduler:?}");
    }
}

#[test]
fn thresholds_of_a_layer_stand_for_those_of_the_options() {
    on_every_device(|device| {
        let mut call = mixed();
        let layer = [0.0, 1.0, 0.4, 0.95];
        let got = unwrap(call.search_with(device, Some(&layer)), &case!(7));
        assert_ne!(got, unwrap(call.search(device), &case!(7)));
        call.options.threshold = Threshold::PerHead(layer.to_vec());
        assert_eq!(got, unwrap(call.search(device), &case!(7)));
    });
}

/// What was found goes to the attention without leaving the device; a mask is filled again by the next search.
#[test]
fn masks_go_to_the_attention_and_are_filled_again() {
    on_every_device(|device| {
        let context = &device.context;
        let stream = context.default_stream();
        let shape = single(300, 400, 2, 1);
        let options = of(4, 64, 0.5);
        let mut plan = Plan::<f16>::new(context, &shape, &options, true).unwrap();
        let mut mask = plan.empty_mask().unwrap();
        let attention = AttentionOptions::default();
        let sparse = block_sparse_attention::Plan::<f16>::new(context, &shape, &attention, 64, 64).unwrap();
        for seed in [1, 2, 1] {
            let inputs = Inputs::<f16>::random(&mut Rng::new(seed), &shape);
            let (q, k) = (inputs.q.clone(), inputs.k.clone());
            let call = Call { shape: shape.clone(), q, k, options: options.clone(), causal: true };
            let want = unwrap(call.search(device), &case!(seed));
            let got = inputs.run(device, |stream, q, k, v, out, lse| {
                plan.run(stream, &q.view(), &k.view(), &mut mask)?;
                sparse.run(stream, &q.view(), &k.view(), &v.view(), &mask, &mut out.view_mut(), Some(lse))
            });
            assert_eq!(mask.to_host(&stream).unwrap(), want);
            let host = inputs.block_sparse(device, &shape, &attention, &want);
            assert_same(&unwrap(got, &case!(seed)), &unwrap(host, &case!(seed)), &case!(seed));

            // On addresses, the same.
            let mut other = plan.empty_mask().unwrap();
            plan.run(
                &stream,
                &OnDevice::copy(device, &call.k.heads(&[0, 0]).tokens(0..300).view(), "q").view(),
                &OnDevice::copy(device, &call.k.view(), "k").view(),
                &mut other,
            )
            .unwrap();
            let (q, k) =
                (OnDevice::copy(device, &call.q.view(), "q"), OnDevice::copy(device, &call.k.view(), "k"));
            let (indptr, indices) = (other.indptr(), other.indices());
            let none = lacuna_kernels_host::DevicePtr::NULL;
            // SAFETY: the tensors and the mask of the plan's shape, which live until the mask has been read.
            unsafe { plan.run_raw(stream.raw(), q.raw(), k.raw(), none, indptr, indices).unwrap() };
            assert_eq!(other.to_host(&stream).unwrap(), want);
        }
    });
}

#[test]
fn a_run_is_four_launches_and_nothing_else() {
    let (context, driver) = emulator(Options::default());
    let device = Device { context, margin: 0 };
    unwrap(mixed().search(&device), &case!(7));
    // Every kernel is launched once.
    let kernels: Vec<String> = driver.reports().into_iter().map(|report| report.kernel).collect();
    assert_eq!((kernels.len(), Plan::<bf16>::LAUNCHES), (4, 4), "{kernels:?}");
    for report in driver.reports() {
        assert_eq!(report.counters.totals().local_bytes, 0, "{}: local memory", report.kernel);
    }
}

#[test]
fn the_workspace_is_as_large_as_it_says() {
    on_every_device(|device| {
        let context = &device.context;
        for (len, heads) in [(1 << 14, 8), (1 << 16, 4)] {
            let shape = single(len, len, heads, heads);
            let before = context.memory().unwrap().free;
            let plan = Plan::<bf16>::new(context, &shape, &of(16, 128, 0.9), true).unwrap();
            let used = (before - context.memory().unwrap().free) as usize;
            let workspace = plan.workspace_bytes();
            // A GPU hands out memory in pieces of up to 2 MiB.
            assert!(used >= workspace || device.margin > 0, "{used} {workspace}");
            assert!(used <= workspace + (8 << 20), "{used} {workspace}");
            // Per CTA 4 bytes for each of 128 rows and each block, and as much for every 8 of them; a bit per block.
            let blocks = len / 128;
            let ctas = (len / 16 / 128 * heads).min(context.info().multiprocessors as usize);
            let bits = heads * blocks * (blocks.div_ceil(32) + 1) * 4;
            assert_eq!(workspace, ctas * 128 * (blocks + blocks / 8) * 4 + bits);
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let shape = single(300, 300, 2, 1);
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let new = |options: &XAttentionOptions| Plan::<bf16>::new(context, &shape, options, true);
        refuses(new(&of(5, 64, 0.5)).unwrap_err(), &["stride", "divisor of block_size (64)", "5"]);
        refuses(new(&of(8, 32, 0.5)).unwrap_err(), &["block_size", "64 or 128 on a device", "32"]);
        refuses(new(&of(8, 64, 1.5)).unwrap_err(), &["threshold", "[0, 1]", "1.5"]);
        assert!(Plan::<f32>::new(context, &shape, &of(8, 64, 0.5), true).is_err());

        let mut plan = new(&of(8, 64, 0.5)).unwrap();
        let tensor = |tokens, heads| {
            DeviceTensor::<bf16>::uninit(context, Layout::thd(tokens, heads, 64), "tensor").unwrap()
        };
        let (q, k, other) = (tensor(300, 2), tensor(300, 1), tensor(299, 1));
        let stream = context.default_stream();
        let mut fits = plan.empty_mask().unwrap();
        let mut run = |k: &DeviceTensor<bf16>, mask: &mut DeviceBlockMask| {
            plan.run(&stream, &q.view(), &k.view(), mask).unwrap_err()
        };
        refuses(run(&other, &mut fits), &["x_attention: k", "299"]);
        let mask = |shape: &AttentionShape, block_size| {
            DeviceBlockMask::for_search(context, shape, block_size, true).unwrap()
        };
        refuses(run(&k, &mut mask(&shape, 128)), &["x_attention: ", "block_mask", "128"]);
        refuses(run(&k, &mut mask(&single(300, 301, 2, 1), 64)), &["block_mask", "301"]);
        let empty = BlockMask::from_csr(&shape, 64, 64, vec![0; 11], vec![]).unwrap();
        let mut full = DeviceBlockMask::from_host(context, &empty).unwrap();
        refuses(run(&k, &mut full), &["block_mask", "room for 30"]);
        let thresholds = DeviceBuffer::from_host(context, &[0.5f32], "thresholds").unwrap();
        let got = plan.run_with_thresholds(&stream, &q.view(), &k.view(), &thresholds, &mut fits);
        refuses(got.unwrap_err(), &["x_attention: thresholds", "[2]", "[1]"]);
        // A refusal leaves the mask as it was.
        assert!(fits.to_host(&stream).unwrap().indices().is_empty());
    });
}
