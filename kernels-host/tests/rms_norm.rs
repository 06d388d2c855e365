//! RMSNorm, with and without an addition, against f64.

mod common;

use common::device::emulator;
use common::rms_norm::Norm;
use common::{Device, Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::rms_norm::Plan;
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, assert_bits, seeds};

/// Around the pieces of a warp, of either tile, and the longest row of either.
const HIDDEN: [usize; 16] =
    [8, 16, 248, 256, 264, 2040, 2048, 2056, 4096, 8184, 8192, 8200, 16384, 32768, 40968, 65536];

fn seeded<T: Half>() {
    let seeds: Vec<u64> = seeds(64).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let hidden = HIDDEN[seed as usize % HIDDEN.len()];
        let rows = rng.range(0..=if hidden > 8192 { 2 } else { 5 });
        let add = rng.chance(0.5);
        let mut norm = Norm::<T>::random(&mut rng, rows, hidden, add);
        norm.not_finite = *rng.choose(&[Some(u32::MAX), Some(3), None]);
        norm.check(device, &case!(seed, "{rows} of {hidden}, add {add}"));
    });
}

#[test]
fn rows_are_normal_bf16() {
    seeded::<bf16>();
}

#[test]
fn rows_are_normal_f16() {
    seeded::<f16>();
}

/// Sums of small integers are exact in any order.
fn integers<T: Half>(device: &Device, hidden: usize, add: bool) {
    let mut rng = Rng::new(hidden as u64);
    let mut norm = Norm::<T>::random(&mut rng, 3, hidden, add);
    let integers = |rng: &mut Rng| Tensor::from_fn(Layout::thd(3, 1, hidden), |_, _, _| rng.sparse_integer());
    norm.x = integers(&mut rng);
    norm.branch = add.then(|| integers(&mut rng));
    let case = case!(0, "{hidden}, add {add}");
    let got = norm.check(device, &case);
    assert_bits(&got.out, &norm.formula(), &case);
}

#[test]
fn bits_are_those_of_the_formula_where_sums_are_exact() {
    let cases: Vec<_> =
        [8, 1000, 4096, 8192, 12288].into_iter().flat_map(|n| [(n, false), (n, true)]).collect();
    for_each(&cases, |device, &(hidden, add)| {
        integers::<bf16>(device, hidden, add);
        integers::<f16>(device, hidden, add);
    });
}

#[test]
fn numbers_that_are_not_finite_are_found_wherever_they_are() {
    let cases: Vec<_> = [256, 8192, 65536]
        .into_iter()
        .flat_map(|hidden| [0, 1, 130, hidden / 2, hidden - 1].map(|at| (hidden, at)))
        .collect();
    for_each(&cases, |device, &(hidden, at)| {
        let at = at.min(hidden - 1);
        for (add, value) in [(false, f64::NAN), (true, f64::INFINITY), (true, f64::NEG_INFINITY)] {
            let mut norm = Norm::<bf16>::random(&mut Rng::new(at as u64), 3, hidden, add);
            let x = norm.x.clone();
            norm.x = Tensor::from_fn(*x.view().layout(), |row, _, i| {
                if row > 0 && i == at { value } else { x.view().row(row, 0)[i].to_f64() }
            });
            let got = norm.check(device, &case!(0, "{value} at {at} of {hidden}, add {add}"));
            assert_eq!(got.not_finite, Some(norm.first_token + 1));
            // The first row has nothing of it.
            assert!(got.out[..hidden].iter().all(|x| x.is_finite()));
        }
    });
}

#[test]
fn sums_that_are_not_finite_are_found_and_large_numbers_are_not() {
    on_every_device(|device| {
        let constant = |value| Tensor::from_fn(Layout::thd(2, 1, 16), |_, _, _| value);
        let mut norm = Norm::<f16>::random(&mut Rng::new(1), 2, 16, true);
        norm.out = Layout::thd(2, 1, 16);
        // Each is finite, and the sum is not a number of the type.
        (norm.x, norm.branch) = (constant(60000.0), Some(constant(60000.0)));
        assert_eq!(norm.check(device, &case!(1)).not_finite, Some(norm.first_token));
        // Squares overflow in f32 as they do on a CPU, and the numbers are finite.
        let mut norm = Norm::<bf16>::random(&mut Rng::new(2), 2, 16, false);
        norm.out = Layout::thd(2, 1, 16);
        norm.x = Tensor::from_fn(norm.out, |_, _, _| 1e30);
        let got = common::unwrap(norm.run(device), &case!(2));
        assert_eq!(got.not_finite, Some(u32::MAX));
        assert_bits(&got.out, &norm.formula(), &case!(2));
    });
}

#[test]
fn a_row_has_the_same_bits_alone() {
    on_every_device(|device| {
        for (hidden, add) in [(4096, true), (8200, false)] {
            let all = Norm::<bf16>::random(&mut Rng::new(3), 4, hidden, add);
            let case = case!(3, "{hidden}");
            let want = common::unwrap(all.run(device), &case);
            for row in 0..4 {
                let one = Norm {
                    x: all.x.tokens(row..row + 1),
                    branch: all.branch.as_ref().map(|branch| branch.tokens(row..row + 1)),
                    weight: all.weight.clone(),
                    out: Layout::thd(1, 1, hidden),
                    ..all
                };
                let got = common::unwrap(one.run(device), &case);
                assert_bits(&got.out, &want.out[row * hidden..][..hidden], &case);
            }
        }
    });
}

#[test]
fn every_byte_moves_once_in_any_order() {
    for (name, hidden, add) in [
        ("rms_norm_bf16", 4096, false),
        ("rms_norm_bf16_add", 4096, true),
        ("rms_norm_bf16_wide", 24576, false),
        ("rms_norm_bf16_wide_add", 24576, true),
    ] {
        let norm = Norm::<bf16>::random(&mut Rng::new(4), 3, hidden, add);
        let run = |scheduler| {
            let (context, driver) = emulator(Options { scheduler, ..Options::default() });
            let case = case!(4, "{name} {scheduler:?}");
            let got = norm.check(&Device { context, margin: 0 }, &case);
            let counters = driver.report(name).expect("a launch").counters;
            // `x`, the branch and the weights; the output, and the sum.
            let tensor = (3 * hidden * 2) as u64;
            assert_eq!(counters.opcode("ld.global.v4").global_bytes, tensor * (2 + add as u64));
            assert_eq!(counters.opcode("st.global.v4").global_bytes, tensor * (1 + add as u64));
            assert_eq!(counters.totals().global_bytes, tensor * (3 + 2 * add as u64), "whole accesses alone");
            assert_eq!(counters.totals().local_bytes, 0);
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
            got
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2)] {
            let got = run(scheduler);
            assert_bits(&got.out, &want.out, &case!(4, "{name} {scheduler:?}"));
        }
    }
}

#[test]
fn outputs_may_take_the_place_of_what_is_read_last() {
    on_every_device(|device| {
        let stream = device.context.default_stream();
        for add in [false, true] {
            let norm = Norm::<f16>::random(&mut Rng::new(5), 3, 520, add);
            let case = case!(5, "add {add}");
            let want = norm.check(device, &case).out;
            let plan = Plan::<f16>::new(&device.context, 520, norm.eps).unwrap();
            let weight = DeviceBuffer::from_host(&device.context, &norm.weight, "weight").unwrap();
            let found = DeviceBuffer::from_host(&device.context, &[u32::MAX], "not_finite").unwrap();
            let x = OnDevice::copy(device, &norm.x.view(), "x");
            let got = match &norm.branch {
                None => {
                    // SAFETY: tensors and lists of three rows on this device.
                    unsafe {
                        plan.run_raw(stream.raw(), 3, x.raw(), weight.ptr(), x.raw(), 0, found.ptr())
                            .unwrap();
                    }
                    x.read(device)
                }
                Some(branch) => {
                    let branch = OnDevice::copy(device, &branch.view(), "branch");
                    let out = branch.raw();
                    // SAFETY: as above.
                    unsafe {
                        plan.run_add_raw(stream.raw(), 3, x.raw(), out, weight.ptr(), out, 0, found.ptr())
                            .unwrap();
                    }
                    branch.read(device)
                }
            };
            assert_bits(&got, &want, &case);
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let context = Device::emulated().context;
    let refuses = |why: Error, parts: &[&str]| {
        let why = why.to_string();
        assert!(why.starts_with("rms_norm: ") && parts.iter().all(|part| why.contains(part)), "{why}");
    };
    refuses(Plan::<f32>::new(&context, 64, 1e-5).unwrap_err(), &["dtype", "bf16 or f16"]);
    for hidden in [0, 4, 65532] {
        refuses(Plan::<bf16>::new(&context, hidden, 1e-5).unwrap_err(), &["hidden", "multiple of 8"]);
    }
    refuses(Plan::<bf16>::new(&context, 65544, 1e-5).unwrap_err(), &["hidden", "65536", "65544"]);
    for eps in [-1e-5, f32::NAN, f32::INFINITY] {
        refuses(Plan::<bf16>::new(&context, 64, eps).unwrap_err(), &["eps"]);
    }

    let plan = Plan::<bf16>::new(&context, 64, 1e-5).unwrap();
    let stream = context.default_stream();
    let tensor = |rows, step| {
        let layout = Layout { token_stride: step, batch_stride: rows * step, ..Layout::thd(rows, 1, 64) };
        DeviceTensor::<bf16>::uninit(&context, layout, "tensor").unwrap()
    };
    let list = |len| DeviceBuffer::<bf16>::uninit(&context, len, "weight").unwrap();
    let wide = DeviceTensor::<bf16>::uninit(&context, Layout::thd(3, 1, 72), "wide").unwrap();
    let mut x = tensor(3, 64);
    let (narrow, odd) = (tensor(2, 64), tensor(3, 68));
    let mut out = tensor(3, 64);
    let out = &mut out.view_mut().unwrap();
    refuses(plan.run(&stream, &wide.view(), &list(64), out, 0, None).unwrap_err(), &["x", "[3, 1, 72]"]);
    refuses(plan.run(&stream, &narrow.view(), &list(64), out, 0, None).unwrap_err(), &["out", "[3, 1, 64]"]);
    refuses(plan.run(&stream, &odd.view(), &list(64), out, 0, None).unwrap_err(), &["x", "multiples of 8"]);
    refuses(plan.run(&stream, &x.view(), &list(63), out, 0, None).unwrap_err(), &["weight", "[63]"]);
    let last = u32::MAX - 1;
    refuses(plan.run(&stream, &x.view(), &list(64), out, last, None).unwrap_err(), &["first_token"]);
    let mut two = DeviceBuffer::<u32>::uninit(&context, 2, "not_finite").unwrap();
    let got = plan.run(&stream, &x.view(), &list(64), out, 0, Some(&mut two));
    refuses(got.unwrap_err(), &["not_finite"]);
    let got = plan.run_add(&stream, &mut x.view_mut().unwrap(), &narrow.view(), &list(64), out, 0, None);
    refuses(got.unwrap_err(), &["branch"]);
}
