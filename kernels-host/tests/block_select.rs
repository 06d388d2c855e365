//! XAttention's selection against the reference and the published results.

mod common;

use common::block_select::{Scores, random_options};
use common::device::emulator;
use common::{Device, for_each, on_every_device, unwrap};
use lacuna_core::{
    AttentionShape, BlockMask, Error, Seqlens, Threshold, XAttentionCompat, XAttentionOptions,
};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::block_select::Plan;
use lacuna_reference::testing::{MaskBounds, Rng, ShapeLimits, edge_lengths, golden, seeds};
use lacuna_reference::{block_select, block_select_bounds, case};

/// Sequences of (queries, keys).
fn shape(heads: usize, lengths: &[(usize, usize)]) -> AttentionShape {
    let sums = |of: fn(&(usize, usize)) -> usize| {
        let ends = lengths.iter().scan(0, |end, pair| {
            *end += of(pair) as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    };
    let seqlens = Seqlens::new(sums(|pair| pair.0), sums(|pair| pair.1)).unwrap();
    AttentionShape::new(heads, heads, 16, seqlens).unwrap()
}

fn lengths(shape: &AttentionShape) -> Vec<(usize, usize)> {
    let seqlens = &shape.seqlens;
    (0..seqlens.batch()).map(|b| (seqlens.seqlen_q(b), seqlens.seqlen_k(b))).collect()
}

/// The shape with one more sequence, so long that all rows go to the kernel for long ones.
fn beside_a_long_sequence(shape_of: &AttentionShape, block: usize) -> AttentionShape {
    let mut lengths = lengths(shape_of);
    lengths.push((1, 1025 * block));
    shape(shape_of.num_heads, &lengths)
}

fn rows(mask: &BlockMask, b: usize, head: usize) -> Vec<Vec<u32>> {
    (0..mask.m_blocks(b)).map(|m| mask.row(b, head, m).to_vec()).collect()
}

#[test]
fn golden_selections() {
    on_every_device(|device| {
        for selection in golden::selections() {
            let shape = selection.shape();
            let long = beside_a_long_sequence(&shape, 128);
            let n_blocks = selection.seqlens.1 / 128;
            for &(threshold, want) in selection.rows {
                let options = selection.options(threshold);
                for shape in [&shape, &long] {
                    let score = |b, _, m, n| if b == 0 { selection.scores[m * n_blocks + n] } else { 1.0 };
                    let scores = Scores::from_fn(shape, &options, true, score);
                    let case = case!(0, "{threshold} {:?}", selection.compat);
                    let mask = unwrap(scores.select(device, shape, &options, true), &case);
                    assert_eq!(rows(&mask, 0, 0), want, "{case}");
                }
            }
        }
    });
}

/// Few distinct scores, whose sums are exact: ties everywhere, and equality to the block.
fn equals_the_reference_exactly(device: &Device, seed: u64, long: bool) {
    let mut rng = Rng::new(seed);
    let limits =
        ShapeLimits { max_tokens: if long { 200 } else { 260 }, max_heads_k: 2, ..Default::default() };
    let mut shape = rng.shape(&limits);
    let options = random_options(&mut rng, shape.num_heads);
    let causal = rng.chance(0.7);
    if long {
        shape = beside_a_long_sequence(&shape, options.block_size);
    }
    let most = *rng.choose(&[1, 2, 5, 1000]);
    let scores = Scores::from_fn(&shape, &options, causal, |_, _, _, _| rng.below(most) as f32);
    let want = block_select(&shape, &scores.reference, &options, causal).unwrap();
    let case = case!(seed, "causal {causal} {shape:?} {options:?}");
    let got = unwrap(scores.select(device, &shape, &options, causal), &case);
    assert_eq!(got, want, "{case}");
}

#[test]
fn equals_the_reference_exactly_on_small_integers() {
    for_each(&seeds(200).collect::<Vec<_>>(), |device, &seed| {
        equals_the_reference_exactly(device, seed, false)
    });
}

#[test]
fn equals_the_reference_exactly_in_the_kernel_for_long_rows() {
    for_each(&seeds(60).collect::<Vec<_>>(), |device, &seed| {
        equals_the_reference_exactly(device, seed, true)
    });
}

/// Scores as softmax leaves them, in rows up to and beyond what a warp holds.
#[test]
fn long_rows_equal_the_reference_within_rounding() {
    let seeds: Vec<u64> = seeds(24).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let k_blocks = *rng.choose(&[255, 256, 257, 700, 1023, 1024, 1025, 1500, 2100]);
        let shape = shape(1, &[(rng.range(1..=40), k_blocks * 16 - rng.below(16))]);
        let options = XAttentionOptions { block_size: 16, ..random_options(&mut rng, 1) };
        let causal = rng.chance(0.7);
        let spread = *rng.choose(&[0.1, 1.0, 4.0]);
        let scores = Scores::from_fn(&shape, &options, causal, |_, _, _, _| {
            ((rng.normal() * spread).exp() / k_blocks as f64) as f32
        });
        let case = case!(seed, "causal {causal} {k_blocks} {options:?}");
        let bounds =
            block_select_bounds(&shape, &scores.reference, &options, causal, MaskBounds::EPS).unwrap();
        assert!(bounds.close_calls() <= 8, "{} close calls {case}", bounds.close_calls());
        bounds.assert_contain(&unwrap(scores.select(device, &shape, &options, causal), &case), &case);
    });
}

#[test]
fn rows_of_a_million_tokens() {
    on_every_device(|device| {
        let shape = shape(1, &[(20, 1 << 20)]);
        let mut rng = Rng::new(8);
        let options = with_threshold(0.9);
        let scores = Scores::from_fn(&shape, &options, true, |_, _, _, _| rng.below(100) as f32 / 64.0);
        let want = block_select(&shape, &scores.reference, &options, true).unwrap();
        assert_eq!(unwrap(scores.select(device, &shape, &options, true), &case!(8)), want);
    });
}

#[test]
fn edge_lengths_and_pasts() {
    let block = 16;
    let mut cases = Vec::new();
    for q_len in edge_lengths(block).into_iter().chain([1]) {
        for past in [0, 1, block as isize, 777, -1, -(block as isize) - 3] {
            cases.push((q_len, q_len.saturating_add_signed(past)));
        }
    }
    for_each(&cases, |device, &(q_len, k_len)| {
        let mut rng = Rng::new((q_len * 1000 + k_len) as u64);
        let shape = shape(2, &[(q_len, k_len)]);
        let options = XAttentionOptions { block_size: block, ..random_options(&mut rng, 2) };
        for causal in [true, false] {
            let scores = Scores::from_fn(&shape, &options, causal, |_, _, _, _| rng.below(9) as f32);
            let want = block_select(&shape, &scores.reference, &options, causal).unwrap();
            let case = case!(0, "{q_len} of {k_len}, causal {causal}, {options:?}");
            assert_eq!(unwrap(scores.select(device, &shape, &options, causal), &case), want, "{case}");
        }
    });
}

fn with_threshold(threshold: f32) -> XAttentionOptions {
    XAttentionOptions { threshold: Threshold::Scalar(threshold), block_size: 16, ..Default::default() }
}

#[test]
fn ties_go_to_the_lowest_index() {
    on_every_device(|device| {
        // 40 or 1100 key blocks, one row of queries: the first and the last are forced, the others tie.
        for n_blocks in [40u32, 1100] {
            let shape = shape(1, &[(16, n_blocks as usize * 16)]);
            for value in [1.0, 0.1, 1e-3] {
                let options = with_threshold(0.5);
                let scores = Scores::from_fn(&shape, &options, true, |_, _, _, _| value);
                let mask = unwrap(scores.select(device, &shape, &options, true), &case!(0));
                let want: Vec<u32> = (0..n_blocks / 2 - 1).chain([n_blocks - 1]).collect();
                assert_eq!(mask.row(0, 0, 0), want, "{n_blocks} blocks of {value}");
            }
            // Nothing but zeros: no need, nothing but the forced. At a threshold of 1 everything.
            for (threshold, kept) in [(0.9, 2), (1.0, n_blocks as usize)] {
                let options = with_threshold(threshold);
                let zeros = Scores::from_fn(&shape, &options, true, |_, _, _, _| 0.0);
                let mask = unwrap(zeros.select(device, &shape, &options, true), &case!(0));
                assert_eq!(mask.row(0, 0, 0).len(), kept, "{threshold}");
            }
        }
    });
}

#[test]
fn what_is_no_positive_number_counts_as_zero() {
    on_every_device(|device| {
        for n_blocks in [40, 1100] {
            let shape = shape(1, &[(16, n_blocks * 16)]);
            let options = with_threshold(0.9);
            let odd = [f32::NAN, -1.0, f32::NEG_INFINITY, -0.0, -f32::NAN];
            let score = |n: usize| if n % 3 == 1 { 0.25 } else { 0.0 };
            let clean = Scores::from_fn(&shape, &options, true, |_, _, _, n| score(n));
            let mut spoilt = Scores::from_fn(&shape, &options, true, |_, _, _, n| score(n));
            let mut odd = odd.iter().cycle();
            spoilt.packed.iter_mut().filter(|x| **x == 0.0).for_each(|x| *x = *odd.next().unwrap());
            let [want, got] = [clean, spoilt]
                .map(|scores| unwrap(scores.select(device, &shape, &options, true), &case!(0)));
            assert_eq!(got, want);
        }
    });
}

#[test]
fn more_threshold_never_drops_a_block() {
    for_each(&seeds(20).collect::<Vec<_>>(), |device, &seed| {
        let mut rng = Rng::new(seed);
        let limits = ShapeLimits { max_tokens: 260, ..Default::default() };
        let shape = rng.shape(&limits);
        let mut options = random_options(&mut rng, shape.num_heads);
        let uniform = rng.next_u64();
        let case = case!(seed, "{shape:?} {options:?}");
        let mut last: Option<BlockMask> = None;
        for threshold in [0.0, 0.4, 0.8, 0.99, 1.0] {
            options.threshold = Threshold::Scalar(threshold);
            let mut rng = Rng::new(uniform);
            let scores = Scores::from_fn(&shape, &options, true, |_, _, _, _| rng.uniform() as f32);
            let mask = unwrap(scores.select(device, &shape, &options, true), &case);
            // What causality forces is there at every threshold.
            for b in 0..shape.seqlens.batch() {
                for h in 0..shape.num_heads {
                    for m in 0..mask.m_blocks(b) {
                        let visible = mask.visible_blocks(b, m, true);
                        if visible > 0 && !options.compat.chunk_align_past {
                            let row = mask.row(b, h, m);
                            assert_eq!((row[0], row[row.len() - 1]), (0, visible as u32 - 1), "{case}");
                        }
                    }
                }
            }
            if let Some(last) = last {
                MaskBounds { certain: last, possible: mask.clone() }.assert_contain(&mask, &case);
            }
            last = Some(mask);
        }
    });
}

#[test]
fn neighbours_in_a_batch_and_the_order_of_heads_change_nothing() {
    for_each(&seeds(15).collect::<Vec<_>>(), |device, &seed| {
        let mut rng = Rng::new(seed);
        let limits = ShapeLimits { max_tokens: 200, ..Default::default() };
        let whole = rng.shape(&limits);
        let heads = whole.num_heads;
        let options = random_options(&mut rng, heads);
        let block = options.block_size;
        let causal = rng.chance(0.7);
        let salt = rng.next_u64();
        let score = |b: usize, h: usize, m: usize, n: usize| {
            let place = ((b * 64 + h) * 64 + m) * 64 + n;
            (Rng::new(salt ^ place as u64).uniform().powi(4)) as f32
        };
        let case = case!(seed, "causal {causal} {whole:?} {options:?}");
        let select = |shape: &AttentionShape,
                      options: &XAttentionOptions,
                      score: &dyn Fn(usize, usize, usize, usize) -> f32| {
            let scores = Scores::from_fn(shape, options, causal, score);
            unwrap(scores.select(device, shape, options, causal), &case)
        };
        let want = select(&whole, &options, &score);
        // Beside a sequence that makes another kernel of it.
        let long = beside_a_long_sequence(&whole, block);
        let beside = select(&long, &options, &score);
        let reversed = XAttentionOptions {
            threshold: match &options.threshold {
                Threshold::PerHead(list) => Threshold::PerHead(list.iter().rev().copied().collect()),
                scalar => scalar.clone(),
            },
            ..options.clone()
        };
        let turned = select(&whole, &reversed, &|b, h, m, n| score(b, heads - 1 - h, m, n));
        for (b, &lengths) in lengths(&whole).iter().enumerate() {
            let alone = select(&shape(heads, &[lengths]), &options, &|_, h, m, n| score(b, h, m, n));
            for h in 0..heads {
                assert_eq!(rows(&alone, 0, h), rows(&want, b, h), "alone {case}");
                assert_eq!(rows(&beside, b, h), rows(&want, b, h), "beside a long sequence {case}");
                assert_eq!(rows(&turned, b, heads - 1 - h), rows(&want, b, h), "heads turned {case}");
            }
        }
    });
}

#[test]
fn thresholds_of_another_layer() {
    on_every_device(|device| {
        let context = &device.context;
        let shape = shape(3, &[(100, 300)]);
        let of_layer = |list: [f32; 3]| XAttentionOptions {
            threshold: Threshold::PerHead(list.to_vec()),
            block_size: 16,
            ..Default::default()
        };
        let (first, second) = (of_layer([0.2, 0.5, 1.0]), of_layer([0.9, 0.1, 0.3]));
        let mut rng = Rng::new(3);
        let scores = Scores::from_fn(&shape, &first, true, |_, _, _, _| rng.uniform() as f32);
        let plan = Plan::new(context, &shape, &first, true).unwrap();
        assert_eq!(plan.workspace_bytes(), 40 + 3 * 4);
        let want = unwrap(scores.select(device, &shape, &second, true), &case!(3));
        let device_scores = DeviceBuffer::from_host(context, &scores.packed, "scores").unwrap();
        let thresholds = DeviceBuffer::from_host(context, &[0.9f32, 0.1, 0.3], "thresholds").unwrap();
        let bits = DeviceBuffer::<u32>::uninit(context, plan.num_rows() * plan.words(), "bits").unwrap();
        let counts = DeviceBuffer::<u32>::uninit(context, plan.num_rows(), "counts").unwrap();
        let stream = context.default_stream();
        // SAFETY: the buffers have the plan's sizes and live until the stream has been read from.
        unsafe {
            plan.run_raw(stream.raw(), device_scores.ptr(), thresholds.ptr(), bits.ptr(), counts.ptr())
                .unwrap()
        };
        let counts = counts.to_host(&stream).unwrap();
        let want: Vec<u32> = (0..3).flat_map(|h| rows(&want, 0, h)).map(|row| row.len() as u32).collect();
        assert_eq!(counts, want);
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    for n_blocks in [300, 1100] {
        let shape = shape(2, &[(20, n_blocks * 16)]);
        let options = with_threshold(0.8);
        let mut rng = Rng::new(6);
        let scores = Scores::from_fn(&shape, &options, true, |_, _, _, _| rng.below(50) as f32 / 64.0);
        let run = |scheduler| {
            let (context, driver) = emulator(Options { scheduler, ..Options::default() });
            let device = Device { context, margin: 0 };
            let mask = unwrap(scores.select(&device, &shape, &options, true), &case!(6, "{scheduler:?}"));
            let kernel = kernel::block_select(n_blocks as u32).kernel.name;
            let counters = driver.report(kernel).expect("a launch").counters;
            assert_eq!(counters.totals().local_bytes, 0);
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
            let words = n_blocks.div_ceil(32);
            assert_eq!(
                counters.opcode("st.global").global_bytes as usize,
                2 * 2 * (words + 1) * 4,
                "each word once"
            );
            mask
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in [Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)] {
            assert_eq!(run(scheduler), want, "{scheduler:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("block_select: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let new =
            |shape: &AttentionShape, options: &XAttentionOptions| Plan::new(context, shape, options, true);
        let small = shape(2, &[(40, 40)]);
        refuses(new(&small, &with_threshold(1.5)).unwrap_err(), &["threshold", "1.5"]);
        let options = XAttentionOptions { block_size: 48, ..with_threshold(0.5) };
        refuses(new(&small, &options).unwrap_err(), &["block_size", "48"]);
        let list = Threshold::PerHead(vec![0.5]);
        refuses(
            new(&small, &XAttentionOptions { threshold: list, ..with_threshold(0.5) }).unwrap_err(),
            &["threshold"],
        );
        refuses(new(&shape(65536, &[(1, 1)]), &with_threshold(0.5)).unwrap_err(), &["heads", "65535"]);
        refuses(
            new(&shape(1, &[(1, 1 << 30)]), &with_threshold(0.5)).unwrap_err(),
            &["tokens", "1073741823"],
        );
        let long = shape(32, &[(1 << 20, 1 << 20)]);
        refuses(new(&long, &with_threshold(0.5)).unwrap_err(), &["visible blocks", "4294967295"]);

        let plan = new(&small, &with_threshold(0.5)).unwrap();
        assert_eq!((plan.num_scores(), plan.num_rows(), plan.words()), (2 * 6, 2 * 3, 1));
        let aligned = XAttentionCompat { chunk_align_past: true, ..Default::default() };
        let options = XAttentionOptions { compat: aligned, ..with_threshold(0.5) };
        assert_eq!(new(&small, &options).unwrap().num_scores(), 2 * 9);
        let stream = context.default_stream();
        let scores = |len| DeviceBuffer::<f32>::uninit(context, len, "scores").unwrap();
        let words = |len| DeviceBuffer::<u32>::uninit(context, len, "words").unwrap();
        let run = |a, b, c| plan.run(&stream, &scores(a), &mut words(b), &mut words(c)).unwrap_err();
        refuses(run(11, 6, 6), &["scores", "12", "11"]);
        refuses(run(12, 5, 6), &["bits", "6", "5"]);
        refuses(run(12, 6, 7), &["counts", "6", "7"]);
        let other = Device::emulated();
        let foreign = DeviceBuffer::<f32>::uninit(&other.context, 12, "scores").unwrap();
        let got = plan.run(&stream, &foreign, &mut words(6), &mut words(6));
        refuses(got.unwrap_err(), &["scores", "device"]);
    });
}
