//! The largest entries of rows against the reference.

mod common;

use common::device::emulator;
use common::top_k::{expected, expected_tokens, random_scores, select, select_tokens};
use common::{Device, for_each, on_every_device, unwrap};
use lacuna_core::{AttentionShape, Error, Seqlens};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::top_k::{Plan, TokenPlan, TokenTopK};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, seeds};

#[test]
fn seeded_rows() {
    let seeds: Vec<u64> = seeds(200).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (rows, n) = (rng.range(0..=3), *rng.choose(&[0, 1, 2, 31, 32, 33, 100, 1023, 1500, 5000]));
        let k = *rng.choose(&[1, 2, n / 2 + 1, n.max(1), n + 1, 3 * n + 7]);
        let scores = random_scores(&mut rng, rows * n);
        let share = rng.uniform();
        let forced: Option<Vec<bool>> =
            rng.chance(0.5).then(|| (0..n).map(|_| rng.uniform() < share * share).collect());
        let case = case!(seed, "{rows} rows of {n}, k {k}, forced {}", forced.is_some());
        let n = if rows == 0 { 0 } else { n };
        let forced = forced.as_deref().map(|forced| &forced[..n]);
        let got = unwrap(select(device, rows, &scores, k, forced), &case);
        for (row, got) in got.iter().enumerate() {
            assert_eq!(*got, expected(&scores[row * n..][..n], k, forced), "row {row} {case}");
        }
    });
}

#[test]
fn ties_infinities_and_nan() {
    on_every_device(|device| {
        let of = |scores: &[f32], k| unwrap(select(device, 1, scores, k, None), &case!(0)).remove(0);
        assert_eq!(of(&[5.0; 6], 3), [0, 1, 2]);
        assert_eq!(of(&[5.0; 6000], 4097), (0..4097).collect::<Vec<_>>());
        assert_eq!(of(&[f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -1.0], 3), [1, 2, 3]);
        assert_eq!(of(&[f32::NAN; 3], 2), [0, 1]);
        assert_eq!(of(&[-0.0, 0.0, 0.0], 1), [0]);
        assert_eq!(of(&[1.0, 2.0], 9), [0, 1]);
        let forced = Some(&[true, true, false][..]);
        assert_eq!(unwrap(select(device, 1, &[1.0, 2.0, 3.0], 1, forced), &case!(0)), [[0, 1]]);
        // The forced come even before infinity.
        let forced = Some(&[false, false, true][..]);
        let got = unwrap(select(device, 1, &[f32::INFINITY, 2.0, f32::NAN], 1, forced), &case!(0));
        assert_eq!(got, [[2]]);
    });
}

#[test]
fn a_row_of_a_million() {
    on_every_device(|device| {
        let mut rng = Rng::new(5);
        let scores: Vec<f32> = (0..1 << 20).map(|_| (rng.normal() * 3.0).exp() as f32).collect();
        let got = unwrap(select(device, 1, &scores, 6096, None), &case!(5)).remove(0);
        assert_eq!(got, expected(&scores, 6096, None));
    });
}

fn shape(heads: usize, lens: &[u32]) -> AttentionShape {
    let ends = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    let cu: Vec<u32> = std::iter::once(0).chain(ends).collect();
    AttentionShape::new(heads, heads, 64, Seqlens::new(cu.clone(), cu).unwrap()).unwrap()
}

#[test]
fn token_scores_of_a_ragged_batch() {
    let seeds: Vec<u64> = seeds(60).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let lens: Vec<u32> =
            (0..rng.range(0..=4)).map(|_| *rng.choose(&[0, 1, 2, 63, 64, 65, 300, 1000])).collect();
        let heads = rng.range(1..=3);
        let shape = shape(heads, &lens);
        let options = TokenTopK {
            k: *rng.choose(&[1, 30, 64, 500, 5000]),
            forced: *rng.choose(&[0, 1, 30, 100, usize::MAX]),
            descending: rng.chance(0.5),
        };
        let case = case!(seed, "{lens:?} of {heads} heads, {options:?}");
        let scores = random_scores(&mut rng, heads * shape.seqlens.total_k());
        let lists = unwrap(select_tokens(device, &shape, &scores, options), &case);
        let (mut first, mut lists) = (0, lists.into_iter());
        for &len in &lens {
            for head in 0..heads {
                let scores = &scores[first..first + len as usize];
                first += len as usize;
                let want = expected_tokens(scores, options);
                assert_eq!(lists.next(), Some(want), "length {len}, head {head} {case}");
            }
        }
        assert_eq!(lists.next(), None);
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let mut rng = Rng::new(9);
    // As many entries as the CTA looks at in a round: the last ones are not read again.
    let scores: Vec<f32> = (0..2 * 4096).map(|_| rng.below(700) as f32).collect();
    let run = |scheduler| {
        let (context, driver) = emulator(Options { scheduler, ..Options::default() });
        let device = Device { context, margin: 0 };
        let got = unwrap(select(&device, 2, &scores, 1000, None), &case!(9, "{scheduler:?}"));
        let counters = driver.report(kernel::top_k().kernel.name).expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0);
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
        assert_eq!(counters.opcode("st.global").global_bytes, 2 * 1000 * 4, "each index once");
        assert_eq!(counters.opcode("ld.global").global_bytes, 4 * 2 * 4096 * 4, "each score four times");
        got
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)] {
        assert_eq!(run(scheduler), want, "{scheduler:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("top_k: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        refuses(Plan::new(context, 1, 5, 0, None).unwrap_err(), &["k", "at least 1"]);
        refuses(Plan::new(context, 1, 1 << 30, 5, None).unwrap_err(), &["scores of a row", "1073741823"]);
        refuses(Plan::new(context, 1 << 31, 5, 5, None).unwrap_err(), &["rows", "2147483647"]);
        refuses(Plan::new(context, 1, 5, 1, Some(&[true])).unwrap_err(), &["forced"]);
        let plan = Plan::new(context, 2, 5, 3, None).unwrap();
        let stream = context.default_stream();
        let scores = |len| DeviceBuffer::<f32>::uninit(context, len, "scores").unwrap();
        let mut indices = DeviceBuffer::<u32>::uninit(context, 6, "indices").unwrap();
        refuses(plan.run(&stream, &scores(9), &mut indices).unwrap_err(), &["scores"]);
        let mut short = DeviceBuffer::<u32>::uninit(context, 5, "indices").unwrap();
        refuses(plan.run(&stream, &scores(10), &mut short).unwrap_err(), &["indices"]);
        let other = Device::emulated();
        let foreign = DeviceBuffer::<f32>::uninit(&other.context, 10, "scores").unwrap();
        refuses(plan.run(&stream, &foreign, &mut indices).unwrap_err(), &["scores", "device"]);

        let options = TokenTopK { k: 0, forced: 0, descending: false };
        refuses(TokenPlan::new(context, &shape(1, &[5]), options).unwrap_err(), &["k", "at least 1"]);
        let options = TokenTopK { k: 3, ..options };
        refuses(TokenPlan::new(context, &shape(65536, &[5]), options).unwrap_err(), &["heads", "65535"]);
        let plan = TokenPlan::new(context, &shape(2, &[5]), options).unwrap();
        let mut counts = DeviceBuffer::<u32>::uninit(context, 2, "counts").unwrap();
        refuses(plan.run(&stream, &scores(9), &mut indices, &mut counts).unwrap_err(), &["scores"]);
        let mut one = DeviceBuffer::<u32>::uninit(context, 1, "counts").unwrap();
        refuses(plan.run(&stream, &scores(10), &mut indices, &mut one).unwrap_err(), &["counts"]);
    });
}
