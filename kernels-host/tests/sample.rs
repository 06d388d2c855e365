//! Draws against the rule, and against the distribution in f64.

mod common;

use std::f32::consts::LOG2_E;

use common::argmax::{matrix, random_logits};
use common::device::emulator;
use common::sample::{Exact, TOLERANCE, by_rule, draw, random_options, random_uniform};
use common::{Device, for_each, on_every_device, unwrap};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Scheduler};
use lacuna_kernels_host::sample::{Options, Plan};
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor, DeviceView, Graph};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, seeds};

#[test]
fn seeded_rows() {
    let seeds: Vec<u64> = seeds(100).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let n = *rng.choose(&[1, 2, 31, 97, 1000, 1024, 8191, 8193, 12_345]);
        let rows = rng.range(0..=if n < 2000 { 10 } else { 2 });
        let options = random_options(&mut rng, n);
        let logits: Vec<Vec<f32>> = (0..rows).map(|_| random_logits(&mut rng, n)).collect();
        let uniform: Vec<f32> = (0..rows).map(|_| random_uniform(&mut rng)).collect();
        let case = case!(seed, "{rows} rows of {n}, {options:?}, {uniform:?}");
        let got = unwrap(draw(device, &matrix(&logits, rng.below(9)), &options, &uniform), &case);
        for (row, (&token, &uniform)) in got.iter().zip(&uniform).enumerate() {
            assert_eq!(token, by_rule(&logits[row], &options, uniform), "row {row} {case}");
            let exact = Exact::new(&logits[row], &options);
            assert!(exact.margin < TOLERANCE || exact.gives(uniform, token), "row {row}: {token} {case}");
        }
    });
}

/// Draws at the middle and just inside both ends of the share of every token that is kept.
fn assert_kept(device: &Device, logits: &[f32], options: &Options) {
    let Exact { kept, margin } = Exact::new(logits, options);
    let case = case!(0, "{} logits, {options:?}", logits.len());
    assert!(margin > TOLERANCE, "{case}");
    let (mut uniform, mut want, mut before) = (Vec::new(), Vec::new(), 0.0);
    for (token, share) in kept {
        if share > 4.0 * TOLERANCE {
            let ends = [before + TOLERANCE, before + share / 2.0, before + share - TOLERANCE];
            uniform.extend(ends.map(|x| x as f32));
            want.extend([token; 3]);
        }
        before += share;
    }
    let got = draw(device, &matrix(&vec![logits.to_vec(); want.len()], 0), options, &uniform);
    assert_eq!(unwrap(got, &case), want, "{case}");
}

#[test]
fn what_is_kept_is_what_the_distribution_in_f64_says() {
    let mut rng = Rng::new(2);
    let logits: Vec<f32> = (0..97).map(|_| (rng.normal() * 2.0) as f32).collect();
    let base = Options { temperature: 0.8, ..Options::default() };
    let cases = [
        base,
        Options { top_k: 5, ..base },
        Options { top_p: 0.7, ..base },
        Options { min_p: 0.1, ..base },
        Options { top_k: 9, top_p: 0.8, ..base },
        Options { top_k: 9, min_p: 0.2, ..base },
        Options { top_p: 0.9, min_p: 0.05, ..base },
        Options { top_k: 20, top_p: 0.9, min_p: 0.04, ..base },
    ];
    for_each(&cases, |device, options| assert_kept(device, &logits, options));
}

#[test]
fn cuts_fall_where_they_say() {
    on_every_device(|device| {
        // Probabilities 0.5, 0.25, 0.125, 0.125 in another order.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let drawn = |options: Options| -> Vec<bool> {
            let uniform: Vec<f32> = (0..32).map(|i| i as f32 / 32.0 + 0.01).collect();
            let rows = matrix(&vec![logits.to_vec(); 32], 0);
            let tokens = unwrap(draw(device, &rows, &options, &uniform), &case!(0, "{options:?}"));
            (0..4).map(|token| tokens.contains(&token)).collect()
        };
        let all = Options::default();
        assert_eq!(drawn(all), [true; 4]);
        assert_eq!(drawn(Options { top_k: 2, ..all }), [false, true, false, true]);
        // Of the equal third and fourth, the lower index stays.
        assert_eq!(drawn(Options { top_k: 3, ..all }), [true, true, false, true]);
        assert_eq!(drawn(Options { top_p: 0.7, ..all }), [false, true, false, true]);
        assert_eq!(drawn(Options { top_p: 0.8, ..all }), [true, true, false, true]);
        assert_eq!(drawn(Options { top_p: 1e-9, ..all }), [false, true, false, false]);
        assert_eq!(drawn(Options { min_p: 0.4, ..all }), [false, true, false, true]);
        assert_eq!(drawn(Options { min_p: 1.0, ..all }), [false, true, false, false]);
        // Top-p works on what top-k leaves: 0.5 and 0.25 are 2/3 and 1/3.
        assert_eq!(drawn(Options { top_k: 2, top_p: 0.6, ..all }), [false, true, false, false]);
        assert_eq!(drawn(Options { top_k: 2, top_p: 0.7, ..all }), [false, true, false, true]);
        // A share that one token has exactly, its weight being that of the two others, is its own.
        let options = Options { temperature: LOG2_E, top_p: 0.5, ..all };
        let got = draw(device, &matrix(&vec![vec![-1.0, 0.0, -1.0]; 3], 0), &options, &[0.0, 0.5, 0.999]);
        assert_eq!(unwrap(got, &case!(0)), [1; 3]);
    });
}

#[test]
fn a_large_vocabulary_in_strided_rows() {
    let mut rng = Rng::new(6);
    let logits: Vec<Vec<f32>> =
        (0..2).map(|_| (0..128_257).map(|_| (rng.normal() * 2.5) as f32).collect()).collect();
    let base = Options { temperature: 0.7, ..Options::default() };
    let cases = [
        base,
        Options { top_k: 50, ..base },
        Options { top_p: 0.95, ..base },
        Options { top_k: 40, top_p: 0.9, min_p: 0.05, ..base },
    ];
    for_each(&cases, |device, options| {
        let uniform = [0.3f32, 0.999];
        let case = case!(6, "{options:?}");
        let got = unwrap(draw(device, &matrix(&logits, 5), options, &uniform), &case);
        for row in 0..2 {
            assert_eq!(got[row], by_rule(&logits[row], options, uniform[row]), "{case}");
            assert!(Exact::new(&logits[row], options).gives(uniform[row], got[row]), "{case}");
        }
    });
}

#[test]
fn flat_rows_have_more_survivors_than_a_list() {
    let flat = vec![1.5f32; 20_000];
    let mut rng = Rng::new(8);
    let nearly: Vec<f32> = (0..20_000).map(|_| (rng.normal() * 1e-4) as f32).collect();
    let cases = [(&flat, 15_000, 1.0), (&flat, 0, 0.9), (&nearly, 15_000, 0.7), (&nearly, 0, 0.6)];
    for_each(&cases, |device, &(logits, top_k, top_p)| {
        let options = Options { top_k, top_p, ..Options::default() };
        let case = case!(8, "{options:?}");
        for uniform in [0.25, 1f32.next_down()] {
            let got =
                unwrap(draw(device, &matrix(std::slice::from_ref(logits), 0), &options, &[uniform]), &case);
            assert_eq!(got, [by_rule(logits, &options, uniform)], "{case}");
        }
    });
    // Of equals, the lowest indices are kept.
    let last = |options: &Options| by_rule(&flat, options, 1f32.next_down());
    assert_eq!(last(&Options { top_k: 15_000, ..Options::default() }), 14_999);
    assert_eq!(last(&Options { top_p: 0.9, ..Options::default() }), 17_999);
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5];
    let draws = 400;
    for_each(&[0.5f32, 2.0], |device, &temperature| {
        let mut rng = Rng::new(11);
        let uniform: Vec<f32> = (0..draws).map(|_| rng.uniform() as f32).collect();
        let options = Options { temperature, ..Options::default() };
        let rows = matrix(&vec![logits.to_vec(); draws], 0);
        let tokens = unwrap(draw(device, &rows, &options, &uniform), &case!(11));
        let chi_squared: f64 = Exact::new(&logits, &options)
            .kept
            .iter()
            .map(|&(token, share)| {
                let (got, want) = (tokens.iter().filter(|&&t| t == token).count(), share * draws as f64);
                (got as f64 - want).powi(2) / want
            })
            .sum();
        // One in a million for four degrees of freedom.
        assert!(chi_squared < 33.4, "{chi_squared} at {temperature}");
    });
}

#[test]
fn the_ends_of_temperatures_and_numbers() {
    on_every_device(|device| {
        let of = |logits: &[f32], options: &Options, uniform| {
            unwrap(draw(device, &matrix(&[logits.to_vec()], 0), options, &[uniform]), &case!(0))[0]
        };
        let at = |temperature| Options { temperature, ..Options::default() };
        let below_one = 1f32.next_down();
        for uniform in [0.0, 0.5, below_one] {
            // Nothing is left of the second.
            assert_eq!(of(&[1.0, 1.0f32.next_down(), 0.0], &at(1e-30), uniform), 0);
            assert_eq!(of(&[1.0, 2.0], &at(1e-45), uniform), 1);
            assert_eq!(of(&[-300.0, 40.0, 0.0], &at(1.0), uniform), 1);
            assert_eq!(of(&[4.0], &at(1.0), uniform), 0);
            // All are alike.
            assert_eq!(of(&[1.0, -50.0, 7.0, 3.0], &at(1e30), uniform), (uniform * 4.0) as u32);
            assert_eq!(of(&[f32::MAX, f32::MIN], &at(1.0), uniform), 0);
        }
        // A token without weight is not drawn, be it the first or the last.
        assert_eq!(of(&[-90.0, 3.0, 3.0, -90.0], &at(1.0), 0.0), 1);
        assert_eq!(of(&[-90.0, 3.0, 3.0, -90.0], &at(1.0), below_one), 2);
        // Numbers that are none in [0, 1) lead to some token.
        for uniform in [1.0, 2.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(of(&[1.0, 2.0, 3.0], &at(1.0), uniform) < 3);
        }
    });
}

#[test]
fn what_is_not_finite_gives_no_token_and_leaves_the_other_rows() {
    on_every_device(|device| {
        for options in [Options::default(), Options { top_k: 3, top_p: 0.9, ..Options::default() }] {
            let mut rng = Rng::new(12);
            let mut rows: Vec<Vec<f32>> = (0..5).map(|_| random_logits(&mut rng, 9000)).collect();
            rows[0][8999] = f32::NAN;
            rows[2][0] = f32::INFINITY;
            rows[4][8192] = f32::NEG_INFINITY;
            let got = unwrap(draw(device, &matrix(&rows, 0), &options, &[0.4; 5]), &case!(12));
            let want: Vec<u32> = rows.iter().map(|row| by_rule(row, &options, 0.4)).collect();
            assert_eq!(got, want);
            assert_eq!([got[0], got[2], got[4]], [u32::MAX; 3]);
        }
    });
}

#[test]
fn a_recorded_draw_can_be_repeated() {
    on_every_device(|Device { context, .. }| {
        for options in [Options::default(), Options { top_k: 30, top_p: 0.9, ..Options::default() }] {
            let stream = context.new_stream().unwrap();
            let n = 10_000;
            let plan = Plan::new(context, n, &options).unwrap();
            let mut logits = DeviceTensor::<f32>::uninit(context, Layout::thd(1, 1, n), "logits").unwrap();
            let mut out = DeviceBuffer::<u32>::uninit(context, 1, "out").unwrap();
            let mut uniform = DeviceBuffer::<f32>::uninit(context, 1, "uniform").unwrap();
            let mut counters = DeviceBuffer::from_host(context, &[40u32, 0], "counters").unwrap();
            let graph = Graph::capture(&stream, |stream| {
                plan.run(stream, &logits.view(), &uniform, &mut out, Some(&mut counters))
            })
            .unwrap();
            let mut rng = Rng::new(4);
            for step in 0..4 {
                let mut row = random_logits(&mut rng, n);
                if step == 1 {
                    row[5000] = f32::NAN;
                }
                let number = random_uniform(&mut rng);
                logits.buffer_mut().copy_from_host(&stream, &row).unwrap();
                uniform.copy_from_host(&stream, &[number]).unwrap();
                // SAFETY: plan and tensors live.
                unsafe { graph.launch(&stream) }.unwrap();
                assert_eq!(out.to_host(&stream).unwrap(), [by_rule(&row, &options, number)]);
                assert_eq!(counters.to_host(&stream).unwrap(), [41 + step, 1 + step]);
            }
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let mut rng = Rng::new(9);
    // Ties in all slices, and at every cut.
    let rows: Vec<Vec<f32>> =
        (0..2).map(|_| (0..3 * 8192).map(|_| rng.below(40) as f32 / 4.0).collect()).collect();
    let options = Options { top_k: 1000, top_p: 0.6, ..Options::default() };
    let run = |&scheduler: &Scheduler| {
        let (context, driver) = emulator(lacuna_emulator::Options { scheduler, ..Default::default() });
        let device = Device { context, margin: 0 };
        let got = unwrap(draw(&device, &matrix(&rows, 0), &options, &[0.2, 0.9]), &case!(9, "{scheduler:?}"));
        for kernel in ["sample_histogram", "sample_cut", "sample_draw"] {
            let counters = driver.report(kernel).expect("a launch").counters;
            assert_eq!(counters.totals().local_bytes, 0);
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
        }
        got
    };
    let want: Vec<u32> = (0..2).map(|row| by_rule(&rows[row], &options, [0.2, 0.9][row])).collect();
    let schedulers =
        [Scheduler::RoundRobin, Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)];
    for scheduler in &schedulers {
        assert_eq!(run(scheduler), want, "{scheduler:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let context = Device::emulated().context;
    let refuses = |why: Error, parts: &[&str]| {
        let why = why.to_string();
        assert!(why.starts_with("sample: ") && parts.iter().all(|p| why.contains(p)), "{why}");
    };
    let options = Options::default();
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let why = Plan::new(&context, 10, &Options { temperature, ..options }).unwrap_err();
        refuses(why, &["temperature", "positive and finite"]);
    }
    for top_p in [0.0, 1.1, f32::NAN] {
        refuses(Plan::new(&context, 10, &Options { top_p, ..options }).unwrap_err(), &["top_p", "(0, 1]"]);
    }
    for min_p in [-0.1, 1.1, f32::NAN] {
        refuses(Plan::new(&context, 10, &Options { min_p, ..options }).unwrap_err(), &["min_p", "[0, 1]"]);
    }
    refuses(Plan::new(&context, 0, &options).unwrap_err(), &["vocab_size", "at least 1"]);
    refuses(Plan::new(&context, (1 << 22) + 1, &options).unwrap_err(), &["logits of a row", "4194304"]);
    let plan = Plan::new(&context, 10, &options).unwrap();
    let stream = context.default_stream();
    let logits = DeviceBuffer::<f32>::uninit(&context, 40, "logits").unwrap();
    let view = |rows, n| DeviceView::new(&logits, 0, Layout::thd(rows, 1, n)).unwrap();
    let uniform = |n| DeviceBuffer::<f32>::uninit(&context, n, "uniform").unwrap();
    let mut out = DeviceBuffer::<u32>::uninit(&context, 2, "out").unwrap();
    let mut run =
        |rows, n, numbers| plan.run(&stream, &view(rows, n), &uniform(numbers), &mut out, None).unwrap_err();
    refuses(run(2, 9, 2), &["logits", "[2, 1, 10]"]);
    refuses(run(2, 10, 1), &["uniform", "at least 2 elements, got 1"]);
    refuses(run(3, 10, 3), &["out", "at least 3 elements, got 2"]);
}
