//! Column mass against the reference.

mod common;

use common::column_mass::Call;
use common::device::emulator;
use common::{Device, Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Layout, Seqlens};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::column_mass::Plan;
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, ShapeLimits, Tensor};

fn single(heads: usize, heads_k: usize, dim: usize, q_len: usize, k_len: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q_len, k_len).unwrap()).unwrap()
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(50).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let limits = ShapeLimits {
            max_tokens: 200,
            max_heads_k: 2,
            group_sizes: &[1, 2, 3, 4, 8],
            head_dims: &[head_dim],
            ..Default::default()
        };
        let shape = rng.shape(&limits);
        let options = common::random_options(&mut rng);
        let call = Call::<T>::random(&mut rng, &shape, options);
        for b in 0..shape.seqlens.batch() {
            let mut part = |len: usize| {
                let start = if rng.chance(0.5) { 0 } else { rng.below(len + 1) };
                start..if rng.chance(0.5) { len } else { start + rng.below(len - start + 1) }
            };
            let (rows, columns) = (part(shape.seqlens.seqlen_q(b)), part(shape.seqlens.seqlen_k(b)));
            let case = case!(
                seed,
                "{} {shape:?} {:?} sequence {b} rows {rows:?} columns {columns:?}",
                T::DTYPE,
                call.options
            );
            call.check(device, b, rows, columns, &case);
        }
    });
}

crate::common::seeded!();

#[test]
fn edges_of_tiles_and_steps() {
    let mut cases = Vec::new();
    // One query of many heads, as many as fill a step, one more; keys around a tile, a past of any length.
    for (q_len, heads, heads_k) in
        [(1, 1, 1), (1, 32, 1), (1, 32, 4), (8, 4, 1), (9, 8, 2), (33, 1, 1), (64, 2, 2)]
    {
        for k_len in [1, 31, 32, 33, 127, 128, 129, 257] {
            cases.push((q_len, heads, heads_k, k_len));
        }
    }
    for_each(&cases, |device, &(q_len, heads, heads_k, k_len)| {
        let seed = (q_len * 1000 + heads * 10 + k_len) as u64;
        let shape = single(heads, heads_k, 64, q_len, k_len);
        let options = AttentionOptions { causal: k_len % 3 != 0, ..Default::default() };
        let call = Call::<bf16>::random(&mut Rng::new(seed), &shape, options);
        let case = case!(seed, "{q_len} queries, {heads}/{heads_k} heads, {k_len} keys");
        call.check(device, 0, 0..q_len, 0..k_len, &case);
    });
}

#[test]
fn all_rows_and_columns_hold_all_the_attention() {
    on_every_device(|device| {
        let shape = single(4, 2, 128, 300, 450);
        let call = Call::<bf16>::random(&mut Rng::new(3), &shape, AttentionOptions::default());
        let mass = call.run(device, 0, 0..300, 0..450, &[0.0; 450], 1).unwrap();
        let sum: f64 = mass.iter().map(|&x| x as f64).sum();
        assert!((sum - 4.0 * 300.0).abs() < 2e-3, "{sum}");
        // Over layers.
        let twice = call.run(device, 0, 0..300, 0..450, &[0.0; 450], 2).unwrap();
        assert!(twice.iter().zip(&mass).all(|(&twice, &once)| twice == 2.0 * once));
    });
}

#[test]
fn many_rows_lose_nothing() {
    // Every row gives every key the same small part.
    on_every_device(|device| {
        let (rows, keys) = (1500, 150);
        let shape = single(2, 1, 64, rows, keys);
        let zeros = |tokens, heads| Tensor::<f16>::from_fn(Layout::thd(tokens, heads, 64), |_, _, _| 0.0);
        let options = AttentionOptions { causal: false, ..Default::default() };
        let call = Call::of(&shape, options, zeros(rows, 2), zeros(keys, 1));
        let mass = call.run(device, 0, 0..rows, 0..keys, &vec![0.0; keys], 1).unwrap();
        let p = (-(call.lse[0] as f64)).exp();
        let want = 2.0 * rows as f64 * p;
        assert!(mass.iter().all(|&x| x == mass[0] && (x as f64 - want).abs() < 1e-6 * want), "{}", mass[0]);
    });
}

/// Keys after every row, and rows without attention, hold anything.
#[test]
fn hidden_keys_do_not_leak() {
    for_each(&[64, 128], |device, &dim| {
        let shape = single(2, 1, dim, 90, 40);
        let mut call = Call::<f16>::random(&mut Rng::new(5), &shape, AttentionOptions::default());
        let clean = call.check(device, 0, 0..60, 0..40, &case!(5));
        assert!(clean[10..].iter().all(|&x| x == 0.5));
        // The first 50 rows see nothing; row 59 sees keys 0..10.
        call.k.poison(10..40);
        call.q.poison(0..50);
        let got = call.run(device, 0, 0..60, 0..40, &[0.5; 40], 1).unwrap();
        testing::assert_bits(&got, &clean, &case!(5, "d {dim}"));
        // A key that some rows see spoils itself alone.
        call.k.poison(7..8);
        let got = call.run(device, 0, 0..60, 0..40, &[0.5; 40], 1).unwrap();
        for (key, (got, clean)) in got.iter().zip(&clean).enumerate() {
            assert!(if key == 7 { got.is_nan() } else { got == clean }, "{key}: {got} {clean}");
        }
    });
}

#[test]
fn rows_without_attention_add_nothing() {
    on_every_device(|device| {
        let shape = single(2, 2, 64, 70, 200);
        let mut call = Call::<bf16>::random(&mut Rng::new(6), &shape, AttentionOptions::default());
        for h in 0..2 {
            call.lse[h * 70 + 30..][..20].fill(f32::NEG_INFINITY);
        }
        call.check(device, 0, 0..70, 0..200, &case!(6));
        let got = call.run(device, 0, 30..50, 0..200, &[0.25; 200], 1).unwrap();
        assert!(got.iter().all(|&x| x == 0.25));
    });
}

#[test]
fn bits_depend_neither_on_the_batch_nor_on_the_columns_nor_on_the_schedule() {
    let lengths = Seqlens::new(vec![0, 40, 40, 110], vec![0, 300, 310, 610]).unwrap();
    let shape = AttentionShape::new(4, 2, 64, lengths).unwrap();
    let call = Call::<bf16>::random(&mut Rng::new(7), &shape, AttentionOptions::default());
    let run = |scheduler, columns: std::ops::Range<usize>| {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        let device = Device { context, margin: 0 };
        call.run(&device, 2, 3..70, columns.clone(), &vec![0.0; columns.len()], 1).unwrap()
    };
    let want = run(Scheduler::RoundRobin, 0..300);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2)] {
        testing::assert_bits(&run(scheduler, 0..300), &want, &case!(7, "{scheduler:?}"));
    }
    // Keys that all rows see, in other tiles.
    testing::assert_bits(&run(Scheduler::RoundRobin, 50..200), &want[50..200], &case!(7));
    let alone = Call {
        shape: single(4, 2, 64, 70, 300),
        q: call.q.tokens(40..110),
        k: call.k.tokens(310..610),
        lse: (0..4).flat_map(|h| call.lse[h * 110 + 40..][..70].to_vec()).collect(),
        options: call.options,
    };
    let (context, _) = emulator(Options::default());
    let got = alone.run(&Device { context, margin: 0 }, 0, 3..70, 0..300, &[0.0; 300], 1).unwrap();
    testing::assert_bits(&got, &want, &case!(7));
}

#[test]
fn every_key_is_read_once() {
    let (rows, keys, heads, heads_k, dim) = (5, 500, 8, 2, 128);
    let shape = single(heads, heads_k, dim, rows, keys);
    let call = Call::<bf16>::random(&mut Rng::new(8), &shape, AttentionOptions::default());
    let (context, driver) = emulator(Options::default());
    call.run(&Device { context, margin: 0 }, 0, 0..rows, 0..keys, &[0.0; 500], 1).unwrap();
    let counters = driver.report("column_mass_bf16_d128").expect("a launch").counters;
    assert_eq!(counters.totals().local_bytes, 0, "spills or local arrays");
    assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "generic accesses");
    assert_eq!(counters.totals().shared_conflict_factor(), 1.0, "bank conflicts");
    let queries = keys.div_ceil(128) * heads * rows;
    let copied = (keys * heads_k + queries) * dim * 2;
    assert_eq!(counters.class(Class::AsyncCopy).global_bytes, copied as u64);
    assert_eq!(counters.opcode("st.global").global_bytes, keys as u64 * 4);
    assert_eq!(counters.opcode("ld.global").global_bytes, ((keys + queries) * 4) as u64);
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::emulated();
    let shape = single(2, 1, 64, 8, 9);
    let call = Call::<bf16>::random(&mut Rng::new(1), &shape, AttentionOptions::default());
    let error = |b, rows, columns: std::ops::Range<usize>, len: usize| {
        let why = call.run(&device, b, rows, columns, &vec![0.0; len], 1).expect_err("a bad argument");
        why.to_string()
    };
    assert!(error(1, 0..8, 0..9, 9).contains('b'));
    assert!(error(0, 0..9, 0..9, 9).contains("rows"));
    assert!(error(0, 0..8, 3..10, 7).contains("columns"));
    assert!(error(0, 0..8, 0..9, 8).contains("mass"));
    assert!(call.run(&device, 0, 3..3, 0..9, &[1.0; 9], 1).unwrap().iter().all(|&x| x == 1.0));
    assert!(call.run(&device, 0, 0..8, 4..4, &[], 1).unwrap().is_empty());
    let plan = |shape: &AttentionShape| {
        Plan::<bf16>::new(&device.context, shape, &AttentionOptions::default()).err().map(|e| e.to_string())
    };
    assert!(plan(&single(2, 1, 96, 8, 9)).is_some_and(|why| why.contains("head_dim")));
    let why = Plan::<f32>::new(&device.context, &shape, &AttentionOptions::default()).expect_err("f32");
    assert!(why.to_string().contains("dtype"), "{why}");
    // Tensors of another shape.
    let plan = Plan::<bf16>::new(&device.context, &shape, &AttentionOptions::default()).unwrap();
    let q = OnDevice::copy(&device, &call.q.view(), "q");
    let lse = DeviceBuffer::from_host(&device.context, &call.lse, "softmax_lse").unwrap();
    let mut mass = DeviceBuffer::from_host(&device.context, &[0.0; 9], "mass").unwrap();
    let stream = device.context.default_stream();
    let why = plan.run(&stream, &q.view(), &q.view(), &lse, 0, 0..8, 0..9, &mut mass).expect_err("k");
    assert!(why.to_string().contains('k'), "{why}");
}
