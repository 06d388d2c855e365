//! The largest logit against a plain search.

mod common;

use common::argmax::{expected, largest, matrix, random_logits};
use common::device::emulator;
use common::{Device, for_each, on_every_device, unwrap};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::argmax::Plan;
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor, DeviceView, Graph};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, seeds};

#[test]
fn seeded_rows() {
    let seeds: Vec<u64> = seeds(120).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let n = *rng.choose(&[1, 2, 31, 97, 255, 256, 257, 4095, 4096, 4097, 9001]);
        let rows = rng.range(0..=if n < 300 { 80 } else { 3 });
        let mut logits: Vec<Vec<f32>> = (0..rows).map(|_| random_logits(&mut rng, n)).collect();
        for row in &mut logits {
            if rng.chance(0.1) {
                let at = rng.below(n);
                row[at] = *rng.choose(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            }
        }
        let gap = rng.below(9);
        let case = case!(seed, "{rows} rows of {n}, {gap} apart");
        let want: Vec<u32> = logits.iter().map(|row| expected(row)).collect();
        assert_eq!(unwrap(largest(device, &matrix(&logits, gap)), &case), want, "{case}");
    });
}

#[test]
fn ties_go_to_the_lowest_index() {
    on_every_device(|device| {
        let of = |logits: Vec<f32>| unwrap(largest(device, &matrix(&[logits], 0)), &case!(0))[0];
        assert_eq!(of(vec![1.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(of(vec![-0.0, 0.0]), 0);
        assert_eq!(of(vec![5.0; 20_000]), 0);
        // In other threads, warps and CTAs.
        for (first, second) in [(300, 301), (300, 332), (300, 812), (300, 4500), (4097, 19_999)] {
            let mut logits = vec![-5.0; 20_000];
            (logits[first], logits[second]) = (-1.0, -1.0);
            assert_eq!(of(logits), first as u32);
        }
        assert_eq!(of(vec![f32::MIN; 3]), 0);
    });
}

#[test]
fn rows_are_searched_alike_sliced_or_not() {
    on_every_device(|device| {
        let mut rng = Rng::new(3);
        let rows: Vec<Vec<f32>> = (0..65).map(|_| random_logits(&mut rng, 5000)).collect();
        let many = unwrap(largest(device, &matrix(&rows, 3)), &case!(3));
        assert_eq!(many, rows.iter().map(|row| expected(row)).collect::<Vec<_>>());
        assert_eq!(unwrap(largest(device, &matrix(&rows[..2], 0)), &case!(3)), many[..2]);
    });
}

#[test]
fn large_vocabularies() {
    for_each(&[128_256, 128_257, 1 << 20], |device, &n| {
        let mut rng = Rng::new(5);
        let mut logits: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
        assert_eq!(unwrap(largest(device, &matrix(&[logits.clone()], 0)), &case!(5)), [expected(&logits)]);
        // The last one counts as well.
        logits[n - 1] = 9.0;
        assert_eq!(unwrap(largest(device, &matrix(&[logits.clone()], 0)), &case!(5)), [n as u32 - 1]);
        logits[n - 1] = f32::NAN;
        assert_eq!(unwrap(largest(device, &matrix(&[logits], 0)), &case!(5)), [u32::MAX]);
    });
}

#[test]
fn a_recorded_search_can_be_repeated() {
    on_every_device(|Device { context, .. }| {
        let stream = context.new_stream().unwrap();
        let n = 10_000;
        let plan = Plan::new(context, n).unwrap();
        let mut logits = DeviceTensor::<f32>::uninit(context, Layout::thd(2, 1, n), "logits").unwrap();
        let mut out = DeviceBuffer::<u32>::uninit(context, 2, "out").unwrap();
        let mut position = DeviceBuffer::from_host(context, &[40u32], "position").unwrap();
        let graph =
            Graph::capture(&stream, |stream| plan.run(stream, &logits.view(), &mut out, Some(&mut position)))
                .unwrap();
        let mut rng = Rng::new(4);
        for step in 0..4 {
            let mut rows: Vec<Vec<f32>> = (0..2).map(|_| random_logits(&mut rng, n)).collect();
            if step == 1 {
                rows[1][5000] = f32::NEG_INFINITY;
            }
            logits.buffer_mut().copy_from_host(&stream, &rows.concat()).unwrap();
            // SAFETY: plan and tensors live.
            unsafe { graph.launch(&stream) }.unwrap();
            let want: Vec<u32> = rows.iter().map(|row| expected(row)).collect();
            assert_eq!(out.to_host(&stream).unwrap(), want);
            assert_eq!(position.to_host(&stream).unwrap(), [41 + step]);
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let mut rng = Rng::new(9);
    // Ties in all slices.
    let rows: Vec<Vec<f32>> =
        (0..2).map(|_| (0..4 * 4096).map(|_| rng.below(700) as f32).collect()).collect();
    let run = |scheduler| {
        let (context, driver) = emulator(Options { scheduler, ..Options::default() });
        let device = Device { context, margin: 0 };
        let got = unwrap(largest(&device, &matrix(&rows, 0)), &case!(9, "{scheduler:?}"));
        let counters = driver.report("argmax").expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0);
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
        // In two runs each logit once, and a row's least; two counters in one of them.
        assert_eq!(counters.opcode("ld.global").global_bytes, 2 * (4 * 2 * 4 * 4096 + 2 * 8) + 8);
        got
    };
    let want: Vec<u32> = rows.iter().map(|row| expected(row)).collect();
    for scheduler in [
        Scheduler::RoundRobin,
        Scheduler::Random(1),
        Scheduler::Random(2),
        Scheduler::Adversarial(3),
        Scheduler::Adversarial(4),
    ] {
        assert_eq!(run(scheduler), want, "{scheduler:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let context = Device::emulated().context;
    let refuses = |why: Error, parts: &[&str]| {
        let why = why.to_string();
        assert!(why.starts_with("argmax: ") && parts.iter().all(|p| why.contains(p)), "{why}");
    };
    refuses(Plan::new(&context, 0).unwrap_err(), &["vocab_size", "at least 1"]);
    refuses(Plan::new(&context, 1 << 30).unwrap_err(), &["logits of a row", "1073741823"]);
    let plan = Plan::new(&context, 10).unwrap();
    let stream = context.default_stream();
    let logits = DeviceBuffer::<f32>::uninit(&context, 40, "logits").unwrap();
    let view = |rows, heads, n| DeviceView::new(&logits, 0, Layout::thd(rows, heads, n)).unwrap();
    let mut out = DeviceBuffer::<u32>::uninit(&context, 2, "out").unwrap();
    let mut run = |rows, heads, n| plan.run(&stream, &view(rows, heads, n), &mut out, None).unwrap_err();
    refuses(run(2, 1, 9), &["logits", "[2, 1, 10]", "[2, 1, 9]"]);
    refuses(run(2, 2, 10), &["logits"]);
    refuses(run(3, 1, 10), &["out", "at least 3 elements, got 2"]);
    let other = Device::emulated().context;
    let mut foreign = DeviceBuffer::<u32>::uninit(&other, 2, "out").unwrap();
    refuses(plan.run(&stream, &view(2, 1, 10), &mut foreign, None).unwrap_err(), &["out", "device"]);
    let why = plan.run(&stream, &view(2, 1, 10), &mut out, Some(&mut foreign)).unwrap_err();
    refuses(why, &["counters", "device"]);
}
