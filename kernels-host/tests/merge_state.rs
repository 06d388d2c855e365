//! Merging of states against the reference.

mod common;

use common::merge::Parts;
use common::{Device, Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_host::merge_state::Plan;
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, Tensor, Tolerance, nans};

fn seeded<P: Half, T: Half>() {
    let seeds: Vec<u64> = testing::seeds(200).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (parts, tokens, heads) = (rng.range(1..=8), rng.range(0..=40), rng.range(1..=5));
        let head_dim = *rng.choose(&[64, 128]);
        let parts = Parts::<P>::random(&mut rng, parts, tokens, heads, head_dim);
        let case = case!(seed, "{} parts [{tokens}, {heads}, {head_dim}]", parts.parts);
        parts.check::<T>(device, &case);
    });
}

#[test]
fn seeded_parts_bf16() {
    seeded::<bf16, bf16>();
}

#[test]
fn seeded_parts_f16() {
    seeded::<f16, f16>();
}

#[test]
fn seeded_parts_f32() {
    seeded::<f32, f32>();
}

#[test]
fn seeded_f32_parts_to_bf16() {
    seeded::<f32, bf16>();
}

#[test]
fn seeded_f32_parts_to_f16() {
    seeded::<f32, f16>();
}

#[test]
fn many_parts_and_none() {
    for_each(&[0, 1, 2, 33, 100], |device, &parts| {
        let merged = Parts::<bf16>::random(&mut Rng::new(parts as u64), parts, 3, 2, 64);
        merged.check::<bf16>(device, &case!(parts as u64, "{parts} parts"));
    });
}

/// Parts whose rows all hold one value, for cases that are exact.
fn constant(values: &[(f64, f32)]) -> Parts<f32> {
    let layout = Layout::bshd(values.len(), 1, 1, 64);
    let out = Tensor::from_fn(layout, |t, _, _| values[t].0);
    Parts {
        parts: values.len(),
        tokens: 1,
        heads: 1,
        head_dim: 64,
        out,
        lse: values.iter().map(|v| v.1).collect(),
    }
}

#[test]
fn the_lse_need_not_be_asked_for() {
    on_every_device(|device| {
        let parts = Parts::<f16>::random(&mut Rng::new(7), 3, 9, 2, 64);
        let want = common::unwrap(parts.run::<f16>(device), &case!(7));
        let (out, lse) = common::unwrap(parts.run_without_lse::<f16>(device), &case!(7));
        testing::assert_bits(&out, &want.0, &case!(7));
        assert!(lse.iter().all(|x| x.is_nan()));
    });
}

#[test]
fn exact_cases() {
    const EMPTY: f32 = f32::NEG_INFINITY;
    on_every_device(|device| {
        for (values, out, lse) in [
            (&[(3.0, 1.5)][..], 3.0, 1.5),
            (&[(0.0, EMPTY), (3.0, 1.5), (f64::NAN, EMPTY)], 3.0, 1.5),
            (&[(f64::NAN, EMPTY), (f64::INFINITY, EMPTY)], 0.0, EMPTY),
            (&[(1.0, -200.0), (2.0, 200.0)], 2.0, 200.0),
            (&[(1.0, 200.0), (2.0, -200.0)], 1.0, 200.0),
            (&[(1.0, -1e30), (2.0, 1e30)], 2.0, 1e30),
            (&[(2.0, 0.0), (6.0, 0.0), (4.0, 0.0), (8.0, 0.0)], 5.0, 4f32.ln()),
        ] {
            let case = case!(0, "{values:?}");
            let (got, got_lse) = common::unwrap(constant(values).run::<f32>(device), &case);
            assert!(got.iter().all(|&x| x == out), "{got:?} {case}");
            assert!(got_lse[0] == lse || (got_lse[0] - lse).abs() < 1e-6, "{got_lse:?} {case}");
        }
        // More parts than a warp has lanes, the one that decides last.
        let mut values = vec![(1.0, 0.0); 40];
        values[39] = (2.0, 200.0);
        let (got, got_lse) = common::unwrap(constant(&values).run::<f32>(device), &case!(0, "40 parts"));
        assert!(got.iter().all(|&x| x == 2.0) && got_lse == [200.0], "{got:?} {got_lse:?}");
        // What a part has seen stays visible: a NaN with weight is a NaN.
        let case = case!(0, "NaN");
        let (got, _) = common::unwrap(constant(&[(f64::NAN, 0.0), (1.0, 0.0)]).run::<f32>(device), &case);
        assert!(got.iter().all(|x| x.is_nan()));
        let (_, lse) = common::unwrap(constant(&[(1.0, f32::NAN), (1.0, 0.0)]).run::<f32>(device), &case);
        assert!(lse[0].is_nan());
    });
}

#[test]
fn merging_is_associative_and_commutative_within_the_tolerance() {
    let seeds: Vec<u64> = testing::seeds(10).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let all = Parts::<f32>::random(&mut rng, 3, 5, 2, 64);
        let case = case!(seed);
        let (want, want_lse) = all.check::<f32>(device, &case);
        let state = |p: usize| (all.out.tokens(p * 5..(p + 1) * 5), all.part_lse(p).to_vec());
        let merge = |a: &(Tensor<f32>, Vec<f32>), b: &(Tensor<f32>, Vec<f32>)| {
            let (out, lse) = common::unwrap(pair(device, a, b), &case);
            let layout = Layout::thd(5, 2, 64);
            (Tensor::from_fn(layout, |t, h, d| out[layout.offset(t, h) + d] as f64), lse)
        };
        let (a, b, c) = (state(0), state(1), state(2));
        for got in [merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)), merge(&c, &merge(&b, &a))] {
            let want: Vec<f64> = want.iter().map(|&x| x as f64).collect();
            let want_lse: Vec<f64> = want_lse.iter().map(|&x| x as f64).collect();
            testing::assert_close(&got.0.to_vec(), &want, Tolerance::absolute(2e-5), &case);
            testing::assert_close(&got.1, &want_lse, Tolerance::absolute(5e-5), &case);
        }
    });
}

/// Two states that were allocated apart from one another.
fn pair(
    device: &Device,
    a: &(Tensor<f32>, Vec<f32>),
    b: &(Tensor<f32>, Vec<f32>),
) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let context = &device.context;
    let [tokens, heads, head_dim] = a.0.view().shape();
    let plan = Plan::<f32, f32>::new(context, 2, tokens, heads, head_dim)?;
    // The second lies before the first.
    let out_b = OnDevice::copy(device, &b.0.view(), "out_b");
    let lse_b = DeviceBuffer::from_host(context, &b.1, "lse_b")?;
    let out_a = OnDevice::copy(device, &a.0.view(), "out_a");
    let lse_a = DeviceBuffer::from_host(context, &a.1, "lse_a")?;
    let mut out = OnDevice::<f32>::poisoned(device, Layout::thd(tokens, heads, head_dim), "out");
    let mut lse = DeviceBuffer::from_host(context, &nans::<f32>(heads * tokens), "softmax_lse")?;
    let stream = context.default_stream();
    plan.run_pair(
        &stream,
        (&out_a.view(), &lse_a),
        (&out_b.view(), &lse_b),
        &mut out.view_mut(),
        Some(&mut lse),
    )?;
    Ok((out.read(device), lse.to_host(&stream)?))
}

#[test]
fn two_states_apart_merge_as_two_parts_do() {
    let seeds: Vec<u64> = testing::seeds(10).collect();
    for_each(&seeds, |device, &seed| {
        let both = Parts::<f32>::random(&mut Rng::new(seed), 2, 7, 3, 128);
        let case = case!(seed);
        let want = common::unwrap(both.run::<f32>(device), &case);
        let state = |p: usize| (both.out.tokens(p * 7..(p + 1) * 7), both.part_lse(p).to_vec());
        let got = common::unwrap(pair(device, &state(0), &state(1)), &case);
        testing::assert_bits(&got.0, &want.0, &case);
        testing::assert_bits(&got.1, &want.1, &case);
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let parts = Parts::<bf16>::random(&mut Rng::new(6), 5, 33, 3, 128);
    let run = |scheduler| {
        let (context, driver) = common::emulator(Options { scheduler, ..Options::default() });
        let got =
            common::unwrap(parts.run::<bf16>(&Device { context, margin: 0 }), &case!(6, "{scheduler:?}"));
        let kernel = kernel::merge_state(Dtype::Bf16, Dtype::Bf16, 128).unwrap().kernel.name;
        let counters = driver.report(kernel).expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0);
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
        assert_eq!(counters.opcode("st.global").global_bytes, 33 * 3 * (2 * 128 + 4), "each output once");
        got
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)] {
        let got = run(scheduler);
        testing::assert_bits(&got.0, &want.0, &case!(6, "{scheduler:?}"));
        testing::assert_bits(&got.1, &want.1, &case!(6, "{scheduler:?}"));
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("merge_state: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        refuses(Plan::<f32, f32>::new(context, 2, 1, 1, 96).unwrap_err(), &["head_dim", "64 or 128", "96"]);
        refuses(Plan::<bf16, f16>::new(context, 2, 1, 1, 64).unwrap_err(), &["dtype", "f16", "bf16"]);
        refuses(Plan::<bf16, f32>::new(context, 2, 1, 1, 64).unwrap_err(), &["dtype"]);
        let huge = Plan::<f32, f32>::new(context, 2, u32::MAX as usize, 4096, 64).unwrap_err();
        refuses(huge, &["rows", "2147483647"]);

        let plan = Plan::<f32, f32>::new(context, 2, 4, 3, 64).unwrap();
        let stream = context.default_stream();
        let tensor = |layout| DeviceTensor::<f32>::uninit(context, layout, "tensor").unwrap();
        let list = |len| DeviceBuffer::<f32>::uninit(context, len, "list").unwrap();
        let mut out = tensor(Layout::thd(4, 3, 64));
        let mut out = out.view_mut().unwrap();
        for (layout, lse, part) in [
            (Layout::bshd(2, 5, 3, 64), 24, "[10, 3, 64]"),
            (Layout::bshd(4, 2, 3, 64), 24, "batch"),
            (Layout::bshd(2, 4, 3, 64), 23, "part_lse"),
            (Layout { batch_stride: 769, ..Layout::bshd(2, 4, 3, 64) }, 24, "step between parts"),
        ] {
            let got = plan.run(&stream, &tensor(layout).view(), &list(lse), &mut out, None);
            refuses(got.unwrap_err(), &[part]);
        }
        let (a, b) = (tensor(Layout::thd(4, 3, 64)), tensor(Layout::bhsd(1, 3, 4, 64)));
        let got = plan.run_pair(&stream, (&a.view(), &list(12)), (&b.view(), &list(12)), &mut out, None);
        refuses(got.unwrap_err(), &["strides of out_b"]);
        let three = Plan::<f32, f32>::new(context, 3, 4, 3, 64).unwrap();
        let got = three.run_pair(&stream, (&a.view(), &list(12)), (&a.view(), &list(12)), &mut out, None);
        refuses(got.unwrap_err(), &["number of parts"]);
    });
}
