//! The gate of the MLP against f64.

mod common;

use common::device::emulator;
use common::silu_mul::{check, gate};
use common::{Device, Half, for_each, on_every_device, strided};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::DeviceTensor;
use lacuna_kernels_host::silu_mul::Plan;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, assert_bits, seeds};

fn seeded<T: Half>() {
    let seeds: Vec<u64> = seeds(60).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let intermediate = *rng.choose(&[8, 16, 504, 1016, 1024, 1032, 2048, 2056, 14336]);
        let rows = rng.range(0..=4);
        let layout = strided(&mut rng, rows, 1, 2 * intermediate);
        let scale = *rng.choose(&[1.0, 8.0, 60.0]);
        let gate_up = Tensor::<T>::from_fn(layout, |_, _, _| scale * rng.normal());
        let out = strided(&mut rng, rows, 1, intermediate);
        check(device, &gate_up, out, &case!(seed, "{rows} of {intermediate}"));
    });
}

#[test]
fn rows_are_gated_bf16() {
    seeded::<bf16>();
}

#[test]
fn rows_are_gated_f16() {
    seeded::<f16>();
}

/// Every number of a type there is: zeros, subnormal ones, those of no size and none at all.
fn every_number<T: Half>(of: fn(u16) -> T) {
    on_every_device(|device| {
        const N: usize = 1 << 12;
        for up in [1.0, -3.0] {
            let number = |row: usize, i: usize| of((row * N + i) as u16).to_f32() as f64;
            let gate_up =
                Tensor::<T>::from_fn(
                    Layout::thd(16, 1, 2 * N),
                    |row, _, i| {
                        if i < N { number(row, i) } else { up }
                    },
                );
            check(device, &gate_up, Layout::thd(16, 1, N), &case!(0, "up {up}"));
        }
    });
}

#[test]
fn every_gate_bf16() {
    every_number(bf16::from_bits);
}

#[test]
fn every_gate_f16() {
    every_number(f16::from_bits);
}

#[test]
fn a_nan_stays_one_and_nothing_overflows() {
    on_every_device(|device| {
        let gate_up = Tensor::<bf16>::from_fn(Layout::thd(1, 1, 32), |_, _, i| match i {
            3 | 20 => f64::NAN,
            5 => 200.0,
            6 => -200.0,
            _ => 1.0,
        });
        let got = common::unwrap(gate(device, &gate_up, Layout::thd(1, 1, 16)), &case!(0));
        let nan: Vec<usize> = (0..16).filter(|&i| got[i].is_nan()).collect();
        assert_eq!(nan, [3, 4]);
        assert_eq!((got[5].to_f32(), got[6].to_f32()), (200.0, 0.0));
    });
}

#[test]
fn every_byte_moves_once_in_any_order() {
    let gate_up = Tensor::<f16>::random(&mut Rng::new(1), 5, 1, 2 * 1400);
    let run = |scheduler| {
        let (context, driver) = emulator(Options { scheduler, ..Options::default() });
        let case = case!(1, "{scheduler:?}");
        let got = check(&Device { context, margin: 0 }, &gate_up, Layout::thd(5, 1, 1400), &case);
        let counters = driver.report("silu_mul_f16").expect("a launch").counters;
        assert_eq!(counters.opcode("ld.global.v4").global_bytes, 5 * 1400 * 4);
        assert_eq!(counters.opcode("st.global.v4").global_bytes, 5 * 1400 * 2);
        assert_eq!(counters.totals().global_bytes, 5 * 1400 * 6, "whole accesses alone");
        assert_eq!(counters.totals().local_bytes, 0);
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
        got
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2)] {
        assert_bits(&run(scheduler), &want, &case!(1, "{scheduler:?}"));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let context = Device::emulated().context;
    let refuses = |why: Error, parts: &[&str]| {
        let why = why.to_string();
        assert!(why.starts_with("silu_mul: ") && parts.iter().all(|part| why.contains(part)), "{why}");
    };
    refuses(Plan::<f32>::new(&context, 64).unwrap_err(), &["dtype", "bf16 or f16"]);
    for intermediate in [0, 4, 12] {
        refuses(Plan::<bf16>::new(&context, intermediate).unwrap_err(), &["intermediate", "multiple of 8"]);
    }
    refuses(Plan::<bf16>::new(&context, 1 << 33).unwrap_err(), &["intermediate"]);
    let plan = Plan::<bf16>::new(&context, 64).unwrap();
    let stream = context.default_stream();
    let tensor = |rows, features, step| {
        let layout =
            Layout { token_stride: step, batch_stride: rows * step, ..Layout::thd(rows, 1, features) };
        DeviceTensor::<bf16>::uninit(&context, layout, "tensor").unwrap()
    };
    let run = |gate_up: [usize; 3], out: [usize; 3]| {
        let [gate_up, mut out] = [gate_up, out].map(|[rows, features, step]| tensor(rows, features, step));
        plan.run(&stream, &gate_up.view(), &mut out.view_mut().unwrap()).unwrap_err()
    };
    refuses(run([3, 64, 64], [3, 64, 64]), &["gate_up", "[3, 1, 128]"]);
    refuses(run([3, 128, 128], [2, 64, 64]), &["out", "[3, 1, 64]"]);
    refuses(run([3, 128, 132], [3, 64, 64]), &["gate_up", "multiples of 8"]);
    refuses(run([3, 128, 128], [3, 64, 65]), &["out", "multiples of 8"]);
}
