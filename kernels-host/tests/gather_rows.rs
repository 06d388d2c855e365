//! Rows by index against the reference.

mod common;

use common::device::emulator;
use common::gather::{From, assert_gathered, gather};
use common::{Device, Half, for_each, on_every_device, random, strided, unwrap};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::gather_rows::{Count, Plan};
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, seeds};

fn seeded<T: Half>() {
    let seeds: Vec<u64> = seeds(100).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (tokens, heads) = (rng.range(0..=70), rng.range(1..=5));
        let head_dim = *rng.choose(&[8, 16, 64, 72, 128, 512]);
        let rows = rng.range(0..=90);
        let src = random::<T>(&mut rng, tokens, heads, head_dim);
        // Repeated tokens, any order, and some beyond the last.
        let index: Vec<u32> = (0..rows)
            .map(|_| match rng.below(8) {
                0 => tokens as u32 + rng.below(3) as u32,
                1 => u32::MAX,
                _ => rng.below(tokens.max(1)) as u32,
            })
            .collect();
        let from = *rng.choose(&[From::Capacity, From::Host, From::Device]);
        let room = if let From::Capacity = from { rows } else { rows + rng.below(40) };
        let out = strided(&mut rng, room, heads, head_dim);
        let case = case!(seed, "{rows} of {tokens} x {heads} x {head_dim} {from:?}");
        assert_gathered(unwrap(gather(device, &src, &index, (from, rows), out), &case), &src, &index, &case);
    });
}

#[test]
fn rows_are_those_of_the_reference_bf16() {
    seeded::<bf16>();
}

#[test]
fn rows_are_those_of_the_reference_f16() {
    seeded::<f16>();
}

#[test]
fn rows_are_those_of_the_reference_f32() {
    seeded::<f32>();
}

#[test]
fn bits_of_numbers_that_are_none_are_kept() {
    on_every_device(|device| {
        let layout = Layout::thd(2, 1, 8);
        let src = Tensor::<f32>::from_fn(layout, |t, _, _| if t == 0 { f64::INFINITY } else { -0.0 });
        let got = gather(device, &src, &[1, 0], (From::Capacity, 2), layout).unwrap();
        assert!(
            got[..8].iter().all(|x| x.to_bits() == 1 << 31) && got[8..].iter().all(|x| *x == f32::INFINITY)
        );
    });
}

#[test]
fn a_count_on_the_device_that_is_too_large_is_cut() {
    on_every_device(|device| {
        let src = random::<bf16>(&mut Rng::new(1), 9, 2, 64);
        let index = [3, 1, 4, 1, 5];
        let got = gather(device, &src, &index, (From::Device, 6), Layout::thd(5, 2, 64)).unwrap();
        assert_gathered(got, &src, &index, &case!(1));
    });
}

#[test]
fn every_byte_moves_once() {
    let run = |scheduler| {
        let (context, driver) = emulator(Options { scheduler, ..Options::default() });
        let device = Device { context, margin: 0 };
        let src = random::<f16>(&mut Rng::new(2), 50, 4, 128);
        let index: Vec<u32> = (0..33).map(|i| i * 7 % 50).collect();
        let got = gather(&device, &src, &index, (From::Host, 33), Layout::thd(40, 4, 128)).unwrap();
        assert_gathered(got.clone(), &src, &index, &case!(2));
        let counters = driver.report("gather_rows").unwrap().counters;
        assert_eq!(counters.opcode("st.global").global_bytes, 33 * 4 * 128 * 2);
        assert_eq!(counters.opcode("ld.global.v4").global_bytes, 33 * 4 * 128 * 2);
        assert_eq!(counters.totals().local_bytes, 0);
    };
    [Scheduler::RoundRobin, Scheduler::Random(1), Scheduler::Adversarial(2)].into_iter().for_each(run);
}

#[test]
fn what_does_not_fit_is_refused() {
    let context = Device::emulated().context;
    for head_dim in [0, 4, 12, 2056] {
        let why = Plan::<bf16>::new(&context, 10, 1, head_dim, 5).unwrap_err().to_string();
        assert!(why.contains("a multiple of 16 bytes"), "{why}");
    }
    assert!(Plan::<f32>::new(&context, 10, 1, 4, 5).is_ok());
    for (tokens, heads, rows) in [(1 << 32, 1, 5), (10, 1 << 16, 5), (10, 1, 1 << 32)] {
        let plan = Plan::<bf16>::new(&context, tokens, heads, 64, rows);
        assert!(matches!(plan, Err(Error::TooLarge { .. })), "{plan:?}");
    }
    let plan = Plan::<bf16>::new(&context, 10, 2, 64, 5).unwrap();
    let stream = context.default_stream();
    let tensor =
        |n, heads| DeviceTensor::<bf16>::uninit(&context, Layout::thd(n, heads, 64), "tensor").unwrap();
    let list = |n| DeviceBuffer::<u32>::uninit(&context, n, "list").unwrap();
    let run = |src: (usize, usize), index: usize, count: Count, out: (usize, usize)| {
        let mut out = tensor(out.0, out.1);
        let out = &mut out.view_mut().unwrap();
        plan.run(&stream, &tensor(src.0, src.1).view(), &list(index), count, out).unwrap_err().to_string()
    };
    assert!(run((9, 2), 5, Count::All, (5, 2)).contains("src"));
    assert!(run((10, 2), 5, Count::All, (4, 2)).contains("out"));
    assert!(run((10, 2), 4, Count::All, (5, 2)).contains("at least 5 entries, got 4"));
    assert!(run((10, 2), 5, Count::Rows(6), (5, 2)).contains("at most 5, got 6"));
    assert!(run((10, 2), 5, Count::OnDevice(&list(1), 1), (5, 2)).contains("an element of a list of 1"));
}
