//! Rotary position embedding against the formula in f32, bit for bit, and against f64.

mod common;

use bytemuck::{cast, cast_slice};
use common::device::emulator;
use common::rope::{From, POSITIONS, Rotation};
use common::{Device, Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::rope::{Pairing, Plan, Shape, Slot};
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor, Graph};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, assert_bits, seeds};

fn shape(
    num_heads: usize,
    num_heads_k: usize,
    head_dim: usize,
    rotary_dim: usize,
    pairing: Pairing,
) -> Shape {
    Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing }
}

/// Whole and partial rotations, those that whole pieces hold and those that they do not; one piece, odd numbers of them, and
/// as many as a CTA has threads.
const DIMS: [(usize, usize); 18] = [
    (128, 128),
    (64, 64),
    (128, 64),
    (64, 16),
    (80, 32),
    (80, 20),
    (40, 32),
    (24, 16),
    (24, 24),
    (8, 8),
    (16, 2),
    (8, 6),
    (96, 96),
    (256, 8),
    (72, 46),
    (104, 104),
    (512, 48),
    (1024, 1024),
];

fn seeded<T: Half>(pairing: Pairing) {
    let seeds: Vec<u64> = seeds(90).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (head_dim, rotary_dim) = DIMS[seed as usize % DIMS.len()];
        let few = if head_dim > 128 { 3 } else { 9 };
        let (num_heads, num_heads_k) = (rng.range(1..=4 * few), rng.range(1..=few));
        let rows = rng.range(0..=5);
        let rotation = Rotation::<T>::random(
            &mut rng,
            rows,
            shape(num_heads, num_heads_k, head_dim, rotary_dim, pairing),
        );
        let case = case!(seed, "{rows} rows, {:?}", rotation.shape);
        let got = rotation.check(device, &case);
        rotation.check_reference(&got, &case);
    });
}

#[test]
fn half_split_bf16() {
    seeded::<bf16>(Pairing::HalfSplit);
}

#[test]
fn half_split_f16() {
    seeded::<f16>(Pairing::HalfSplit);
}

#[test]
fn interleaved_bf16() {
    seeded::<bf16>(Pairing::Interleaved);
}

#[test]
fn interleaved_f16() {
    seeded::<f16>(Pairing::Interleaved);
}

/// The rotations of one shape for each kernel.
const PATHS: [(Shape, &str); 4] = [
    (
        Shape { num_heads: 32, num_heads_k: 8, head_dim: 128, rotary_dim: 128, pairing: Pairing::HalfSplit },
        "rope_bf16_half_split",
    ),
    (
        Shape { num_heads: 9, num_heads_k: 2, head_dim: 128, rotary_dim: 64, pairing: Pairing::Interleaved },
        "rope_bf16_interleaved",
    ),
    (
        Shape { num_heads: 5, num_heads_k: 5, head_dim: 80, rotary_dim: 20, pairing: Pairing::HalfSplit },
        "rope_bf16_pairs",
    ),
    (
        Shape { num_heads: 3, num_heads_k: 1, head_dim: 40, rotary_dim: 20, pairing: Pairing::Interleaved },
        "rope_bf16_pairs",
    ),
];

#[test]
fn what_is_not_turned_keeps_its_bits() {
    for_each(&PATHS, |device, &(shape, _)| {
        let mut rotation = Rotation::<bf16>::random(&mut Rng::new(1), 2, shape);
        // Zeros of either sign, infinities and NaN with a payload.
        let odd = [0x0000, 0x8000, 0x7f80, 0xff80, 0x7fc5, 0xff91, 0x0001, 0x3f80].map(cast::<u16, bf16>);
        let features = rotation.qkv.view().shape()[2];
        let copied = |i: usize| odd[i * 5 % 8];
        let layout = Layout::thd(2, 1, features);
        let mut memory = vec![bf16::ONE; 2 * features];
        let Shape { num_heads, num_heads_k, head_dim, rotary_dim, .. } = shape;
        let turns = |i: usize| i / head_dim < num_heads + num_heads_k && i % head_dim < rotary_dim;
        (0..memory.len()).filter(|i| !turns(i % features)).for_each(|i| memory[i] = copied(i));
        rotation.qkv = lacuna_reference::testing::Tensor::from_fn(layout, |_, _, _| 0.0);
        for row in 0..2 {
            rotation.qkv.view_mut().row_mut(row, 0).copy_from_slice(&memory[row * features..][..features]);
        }
        let got = common::unwrap(rotation.run(device), &case!(1));
        let want = rotation.formula();
        for (got, want, turning) in [
            (&got.q, &want.q, rotary_dim),
            (&got.k_cache, &want.k_cache, rotary_dim),
            (&got.v_cache, &want.v_cache, 0),
        ] {
            let (got, want): (&[u16], &[u16]) = (cast_slice(got), cast_slice(want));
            for (got, want) in got.chunks(head_dim).zip(want.chunks(head_dim)) {
                assert_eq!(got[turning..], want[turning..], "{shape:?}");
            }
        }
    });
}

#[test]
fn positions_beyond_the_table_are_nan() {
    for_each(&PATHS, |device, &(shape, _)| {
        let mut rotation = Rotation::<bf16>::random(&mut Rng::new(2), 3, shape);
        rotation.position_ids = vec![POSITIONS as u32 - 1, POSITIONS as u32, u32::MAX];
        let got = rotation.check(device, &case!(2, "{shape:?}"));
        let row = shape.num_heads * shape.head_dim;
        assert!(got.q[..row].iter().all(|x| x.is_finite()));
        for head in got.q[row..].chunks(shape.head_dim) {
            let (turned, copied) = head.split_at(shape.rotary_dim);
            assert!(turned.iter().all(|x| x.is_nan()) && copied.iter().all(|x| x.is_finite()));
        }
    });
}

#[test]
fn rows_beyond_the_cache_go_nowhere() {
    for_each(&PATHS, |device, &(shape, _)| {
        for slot in [7, 8, u32::MAX as usize] {
            let mut rotation = Rotation::<bf16>::random(&mut Rng::new(3), 4, shape);
            let cache = Layout::thd(8, shape.num_heads_k, shape.head_dim);
            (rotation.k_cache, rotation.v_cache) = (cache, cache);
            (rotation.slot, rotation.from) = (slot, From::Device);
            // Every query is there, and of the cache what fits.
            rotation.check(device, &case!(3, "{slot} {shape:?}"));
        }
    });
}

#[test]
fn every_byte_moves_once_in_any_order() {
    for ((shape, name), rows) in PATHS.into_iter().flat_map(|path| [(path, 3), (path, 1)]) {
        let rotation = Rotation::<bf16>::random(&mut Rng::new(4), rows, shape);
        let run = |scheduler| {
            let (context, driver) = emulator(Options { scheduler, ..Options::default() });
            let case = case!(4, "{rows} rows, {name} {scheduler:?}");
            let got = rotation.check(&Device { context, margin: 0 }, &case);
            let counters = driver.report(name).expect("a launch").counters;
            let Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing } = shape;
            let all = num_heads + 2 * num_heads_k;
            let moved = (rows * all * head_dim * 2) as u64;
            let read = |opcode: &str| counters.opcode(opcode).global_bytes;
            if name.ends_with("pairs") {
                assert_eq!((read("ld.global.b16"), read("st.global.b16")), (moved, moved));
            } else {
                // A row of the table for each head that turns and is the first of its thread.
                let side_by_side = 128 / (head_dim / if pairing == Pairing::HalfSplit { 16 } else { 8 });
                let per_thread = if rows == 1 { 1 } else { 4 };
                let turning = 0..num_heads + num_heads_k;
                let readers = turning.filter(|head| head / side_by_side % per_thread == 0).count();
                let table = (rows * readers * rotary_dim * 4) as u64;
                assert_eq!((read("ld.global.v4"), read("st.global.v4")), (moved + table, moved));
            }
            assert_eq!(counters.totals().local_bytes, 0);
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0);
            got
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2)] {
            let got = run(scheduler);
            let case = case!(4, "{rows} rows, {name} {scheduler:?}");
            assert_bits(&got.q, &want.q, &case);
            assert_bits(&got.k_cache, &want.k_cache, &case);
            assert_bits(&got.v_cache, &want.v_cache, &case);
        }
    }
}

#[test]
fn one_plan_serves_prefill_and_decode() {
    on_every_device(|device| {
        // A cache that a prompt of three tokens and then two steps fill, heads before tokens.
        let shape = shape(4, 2, 64, 64, Pairing::HalfSplit);
        let mut all = Rotation::<f16>::random(&mut Rng::new(5), 5, shape);
        all.k_cache = Layout { token_stride: 64, head_stride: 6 * 64, ..Layout::thd(6, 2, 64) };
        all.v_cache = Layout::thd(6, 2, 64);
        (all.slot, all.first_position) = (0, 0);
        let want = all.formula();
        let context = &device.context;
        let stream = context.default_stream();
        let plan = Plan::<f16>::new(context, &shape).unwrap();
        let ids = DeviceBuffer::from_host(context, &all.position_ids, "position_ids").unwrap();
        let table = OnDevice::copy(device, &all.cos_sin.view(), "cos_sin");
        let mut k_cache = OnDevice::poisoned(device, all.k_cache, "k_cache");
        let mut v_cache = OnDevice::poisoned(device, all.v_cache, "v_cache");
        let mut queries = Vec::new();
        for (first, rows) in [(0, 3), (3, 1), (4, 1), (5, 0)] {
            let qkv = OnDevice::copy(device, &all.qkv.tokens(first..first + rows).view(), "qkv");
            let mut q = OnDevice::poisoned(device, Layout::thd(rows, 4, 64), "q");
            let slots = DeviceBuffer::from_host(context, &[first as u32], "slots").unwrap();
            let slot = if rows > 1 { Slot::At(first) } else { Slot::OnDevice(&slots, 0) };
            let (k, v) = (&mut k_cache.view_mut(), &mut v_cache.view_mut());
            let q_view = &mut q.view_mut();
            plan.run(&stream, &qkv.view(), &ids, first, &table.view(), q_view, k, v, slot).unwrap();
            queries.extend(q.read(device));
        }
        assert_bits(&queries, &want.q, &case!(5));
        assert_bits(&k_cache.read(device), &want.k_cache, &case!(5));
        assert_bits(&v_cache.read(device), &want.v_cache, &case!(5));
    });
}

#[test]
fn a_graph_follows_position_and_slot() {
    on_every_device(|device| {
        let shape = shape(4, 2, 64, 64, Pairing::HalfSplit);
        let mut all = Rotation::<bf16>::random(&mut Rng::new(6), 4, shape);
        (all.slot, all.k_cache, all.v_cache) = (0, Layout::thd(5, 2, 64), Layout::thd(5, 2, 64));
        all.position_ids = vec![0, 1, 2, 3];
        let want = all.formula();
        let context = &device.context;
        let stream = context.new_stream().unwrap();
        let plan = Plan::<bf16>::new(context, &shape).unwrap();
        let table = OnDevice::copy(device, &all.cos_sin.view(), "cos_sin");
        let mut k_cache = OnDevice::poisoned(device, all.k_cache, "k_cache");
        let mut v_cache = OnDevice::poisoned(device, all.v_cache, "v_cache");
        let mut qkv = DeviceTensor::<bf16>::uninit(context, Layout::thd(1, 1, 8 * 64), "qkv").unwrap();
        let mut q = DeviceTensor::<bf16>::uninit(context, Layout::thd(1, 4, 64), "q").unwrap();
        // One number is both the position and the place.
        let mut step = DeviceBuffer::<u32>::uninit(context, 1, "step").unwrap();
        let graph = Graph::capture(&stream, |stream| {
            let (k, v) = (&mut k_cache.view_mut(), &mut v_cache.view_mut());
            let (q, slot) = (&mut q.view_mut()?, Slot::OnDevice(&step, 0));
            plan.run(stream, &qkv.view(), &step, 0, &table.view(), q, k, v, slot)
        });
        let graph = graph.unwrap();
        for token in 0..4 {
            qkv.buffer_mut().copy_from_host(&stream, all.qkv.view().row(token, 0)).unwrap();
            step.copy_from_host(&stream, &[token as u32]).unwrap();
            // SAFETY: plan and tensors live.
            unsafe { graph.launch(&stream) }.unwrap();
            assert_bits(&q.to_host(&stream).unwrap(), &want.q[token * 4 * 64..][..4 * 64], &case!(6));
        }
        stream.synchronize().unwrap();
        assert_bits(&k_cache.read(device), &want.k_cache, &case!(6));
        assert_bits(&v_cache.read(device), &want.v_cache, &case!(6));
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let context = Device::emulated().context;
    let refuses = |shape: Shape, parts: &[&str]| {
        let why = Plan::<bf16>::new(&context, &shape).unwrap_err().to_string();
        assert!(why.starts_with("rope: ") && parts.iter().all(|part| why.contains(part)), "{why}");
    };
    let split = Pairing::HalfSplit;
    assert!(
        Plan::<f32>::new(&context, &shape(1, 1, 64, 64, split)).unwrap_err().to_string().contains("dtype")
    );
    refuses(shape(0, 1, 64, 64, split), &["num_heads", "at least 1"]);
    refuses(shape(1, 0, 64, 64, split), &["num_heads_k", "at least 1"]);
    refuses(shape(1, 1, 60, 60, split), &["head_dim", "multiple of 8"]);
    refuses(shape(1, 1, 1032, 64, split), &["head_dim", "at most 1024"]);
    for rotary_dim in [0, 3, 66] {
        refuses(shape(1, 1, 64, rotary_dim, split), &["rotary_dim", "from 2 to head_dim (64)"]);
    }
    let huge = Plan::<bf16>::new(&context, &shape(1 << 26, 1, 64, 64, split));
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
    let huge = Plan::<bf16>::new(&context, &shape(1 << 23, 1, 64, 64, split));
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let context = Device::emulated().context;
    let plan = Plan::<bf16>::new(&context, &shape(2, 1, 64, 32, Pairing::HalfSplit)).unwrap();
    let stream = context.default_stream();
    let tensor = |layout| DeviceTensor::<bf16>::uninit(&context, layout, "tensor").unwrap();
    struct Call {
        qkv: Layout,
        ids: usize,
        first: usize,
        cos_sin: Layout,
        q: Layout,
        k: Layout,
        v: Layout,
        slot: usize,
    }
    let fits = || Call {
        qkv: Layout::thd(3, 1, 256),
        ids: 4,
        first: 1,
        cos_sin: Layout::thd(9, 1, 32),
        q: Layout::thd(3, 2, 64),
        k: Layout::thd(8, 1, 64),
        v: Layout::thd(8, 1, 64),
        slot: 5,
    };
    let run = |call: Call| {
        let ids = DeviceBuffer::from_host(&context, &vec![0; call.ids], "position_ids").unwrap();
        let mut table = DeviceTensor::<f32>::uninit(&context, call.cos_sin, "cos_sin").unwrap();
        table.fill_bytes(&stream, 0).unwrap();
        let mut qkv = tensor(call.qkv);
        qkv.fill_bytes(&stream, 0).unwrap();
        let [mut q, mut k, mut v] = [call.q, call.k, call.v].map(tensor);
        plan.run(
            &stream,
            &qkv.view(),
            &ids,
            call.first,
            &table.view(),
            &mut q.view_mut().unwrap(),
            &mut k.view_mut().unwrap(),
            &mut v.view_mut().unwrap(),
            Slot::At(call.slot),
        )
    };
    run(fits()).unwrap();
    let odd = |layout: Layout, token_stride| Layout {
        token_stride,
        batch_stride: layout.seqlen * token_stride,
        ..layout
    };
    let cases: [(Call, &[&str]); 11] = [
        (Call { qkv: Layout::thd(3, 1, 192), ..fits() }, &["qkv", "[3, 1, 256]"]),
        (Call { qkv: odd(Layout::thd(3, 1, 256), 260), ..fits() }, &["qkv", "multiples of 8"]),
        (Call { ids: 3, ..fits() }, &["position_ids", "at least 3 from 1 on"]),
        (Call { first: usize::MAX, ..fits() }, &["position_ids"]),
        (Call { cos_sin: Layout::thd(9, 1, 64), ..fits() }, &["cos_sin", "[9, 1, 32]"]),
        (Call { cos_sin: odd(Layout::thd(9, 1, 32), 33), ..fits() }, &["cos_sin", "multiples of 4"]),
        (Call { q: Layout::thd(2, 2, 64), ..fits() }, &["q", "[3, 2, 64]"]),
        (Call { k: Layout::thd(8, 2, 64), ..fits() }, &["k_cache", "[8, 1, 64]"]),
        (Call { v: Layout::thd(9, 1, 64), ..fits() }, &["v_cache", "[8, 1, 64]"]),
        (Call { v: odd(Layout::thd(8, 1, 64), 68), ..fits() }, &["v_cache", "multiples of 8"]),
        (Call { slot: 6, ..fits() }, &["slot", "at most 8 less 3 rows", "6"]),
    ];
    for (call, parts) in cases {
        let why = run(call).unwrap_err().to_string();
        assert!(why.starts_with("rope: ") && parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let list = DeviceBuffer::from_host(&context, &[0u32], "slots").unwrap();
    let [mut q, mut k, mut v] = [fits().q, fits().k, fits().v].map(tensor);
    let why = plan.run(
        &stream,
        &tensor(fits().qkv).view(),
        &DeviceBuffer::from_host(&context, &[0; 3], "position_ids").unwrap(),
        0,
        &DeviceTensor::<f32>::uninit(&context, fits().cos_sin, "cos_sin").unwrap().view(),
        &mut q.view_mut().unwrap(),
        &mut k.view_mut().unwrap(),
        &mut v.view_mut().unwrap(),
        Slot::OnDevice(&list, 1),
    );
    let why = why.unwrap_err().to_string();
    assert!(why.contains("slot") && why.contains("an element of a list of 1"), "{why}");
}
