//! The probe of the pattern searches against plain sums.

mod common;

use common::probe::{Call, Scores};
use common::{Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{AttentionShape, Seqlens};
use lacuna_emulator::{Class, Counters, Options as EmulatorOptions, Scheduler};
use lacuna_kernels_gpu::params::SearchSequence;
use lacuna_kernels_gpu::tile_size::{PROBE_ROWS, probe_chunk_keys};
use lacuna_kernels_host::RawTensor;
use lacuna_kernels_host::probe::{Options, Plan};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, Tensor, edge_lengths};

use crate::common::Device;
use crate::common::device::emulator;

const HEAD_DIMS: [usize; 2] = [64, 128];

fn ragged(heads: usize, heads_k: usize, dim: usize, lengths: &[(usize, usize)]) -> AttentionShape {
    let sums = |of: fn(&(usize, usize)) -> usize| {
        let sums = lengths.iter().scan(0, |sum, pair| {
            *sum += of(pair) as u32;
            Some(*sum)
        });
        std::iter::once(0).chain(sums).collect()
    };
    let seqlens = Seqlens::new(sums(|pair| pair.0), sums(|pair| pair.1)).unwrap();
    AttentionShape::new(heads, heads_k, dim, seqlens).unwrap()
}

fn plain(last_q: usize) -> Options {
    Options { last_q, softmax_scale: None, gqa_interleave: false, round: false }
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(50).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let limits = testing::ShapeLimits {
            max_tokens: 180,
            max_heads_k: 2,
            group_sizes: &[1, 2, 4, 8],
            head_dims: &[head_dim],
            ..Default::default()
        };
        let shape = rng.shape(&limits);
        let options = Options {
            last_q: *rng.choose(&[1, 7, 16, 32, 33, 64, 100, 128]),
            softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2), Some(0.0)]),
            gqa_interleave: rng.chance(0.4),
            round: false,
        };
        let call = Call::<T>::random(&mut rng, &shape, options);
        call.check(device, &case!(seed, "{} {shape:?} {options:?}", T::DTYPE));
    });
}

crate::common::seeded!();

#[test]
fn edges_of_steps_rows_and_chunks() {
    let chunk = probe_chunk_keys(1) as usize;
    let mut cases = Vec::new();
    for len in [1, 2].into_iter().chain(edge_lengths(32)).chain(edge_lengths(128)) {
        for past in [0, 1, 128, 777] {
            cases.push((len, len + past, 128));
        }
    }
    for k_len in [chunk - 1, chunk, chunk + 1, chunk + 32, chunk + 127, chunk + 128, chunk + 129, 2 * chunk] {
        cases.extend([(k_len, k_len, 128), (70, k_len, 64)]);
    }
    // More queries than keys.
    cases.extend([(40, 7, 128), (300, 90, 128), (128, 127, 128), (5, 0, 3), (0, 5, 3)]);
    for_each(&cases, |device, &(q_len, k_len, last_q)| {
        let seed = (q_len * 7 + k_len) as u64;
        let dim = HEAD_DIMS[seed as usize % 2];
        let shape = ragged(1, 1, dim, &[(q_len, k_len)]);
        let call = Call::<bf16>::random(&mut Rng::new(seed), &shape, plain(last_q));
        call.check(device, &case!(seed, "{q_len} queries, {k_len} keys, last {last_q}, d {dim}"));
    });
}

#[test]
fn many_chunks_are_merged() {
    // More of them than are loaded together, and the largest logits last.
    on_every_device(|device| {
        let k_len = 9 * probe_chunk_keys(1) as usize + 40;
        let shape = ragged(1, 1, 64, &[(20, k_len)]);
        let mut call = Call::<f16>::random(&mut Rng::new(5), &shape, plain(20));
        call.k = Tensor::from_fn(*call.k.view().layout(), |token, head, d| {
            let strength = if token + 60 > k_len { 4.0 } else { 1.0 };
            call.k.view().row(token, head)[d].to_f32() as f64 * strength
        });
        call.check(device, &case!(5, "{k_len} keys"));
    });
}

#[test]
fn long_sequences_have_longer_chunks() {
    for_each(&[0x1_0000, 0x1_0001], |device, &k_len| {
        let shape = ragged(1, 1, 64, &[(5, k_len)]);
        let call = Call::<bf16>::random(&mut Rng::new(2), &shape, plain(5));
        call.check(device, &case!(2, "{k_len} keys"));
    });
}

#[test]
fn large_logits_keep_their_precision() {
    // Logits around 2000, whose f32 spacing is 1e-4: products of small integers are exact, and so is what they are
    // relative to.
    on_every_device(|device| {
        let shape = ragged(2, 1, 64, &[(90, 300)]);
        let layout = |tokens, heads| lacuna_core::Layout::thd(tokens, heads, 64);
        let mut rng = Rng::new(6);
        let q = Tensor::<bf16>::from_fn(
            layout(90, 2),
            |_, _, d| if d < 16 { 16.0 } else { rng.sparse_integer() },
        );
        let k = Tensor::<bf16>::from_fn(
            layout(300, 1),
            |_, _, d| if d < 16 { 8.0 } else { rng.sparse_integer() },
        );
        let options = Options { softmax_scale: Some(1.0), ..plain(64) };
        Call { shape, q, k, options }.check_within(2e-6, device, &case!(6));
    });
}

#[test]
fn rounded_probes_are_those_of_the_published_code() {
    // Products of few small integers are exact before they are rounded, so that both round alike.
    let seeds: Vec<u64> = testing::seeds(12).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let dim = HEAD_DIMS[seed as usize % 2];
        let shape = ragged(2, 1, dim, &[(100, 150), (20, 20)]);
        let sparse = |rng: &mut Rng, tokens, heads| {
            Tensor::<bf16>::from_fn(lacuna_core::Layout::thd(tokens, heads, dim), |token, _, d| {
                // Eight features or sixteen: rounded scaled queries have 8 bits, their sums at most 24.
                if d % 8 == token % 8 { (rng.below(15) as f64 - 7.0) * 0.5 } else { 0.0 }
            })
        };
        let (q, k) = (sparse(&mut rng, 120, 2), sparse(&mut rng, 170, 1));
        let softmax_scale = *rng.choose(&[None, Some(0.3), Some(-0.7), Some(0.0)]);
        let options = Options { softmax_scale, round: true, ..plain(*rng.choose(&[64, 128])) };
        let call = Call { shape, q, k, options };
        let rounded = call.check_within(2e-6, device, &case!(seed, "{options:?}"));
        if softmax_scale.is_some_and(|scale| scale != 0.0) {
            let exact = Call { options: Options { round: false, ..options }, ..call.clone() };
            let differ = exact.run(device).vertical != rounded.vertical;
            assert!(differ, "rounding made no difference");
        }
    });
}

#[test]
fn equal_keys_get_equal_sums() {
    // Whatever step, chunk or alignment a key or a diagonal falls into.
    on_every_device(|device| {
        let k_len = probe_chunk_keys(1) as usize + 333;
        let shape = ragged(1, 1, 64, &[(128, k_len)]);
        let mut rng = Rng::new(7);
        let q = common::random::<bf16>(&mut rng, 128, 1, 64);
        let k = Tensor::from_fn(lacuna_core::Layout::thd(k_len, 1, 64), |_, _, d| (d % 5) as f64 - 1.5);
        let call = Call { shape, q, k, options: plain(128) };
        let Scores { vertical, slash } = call.check(device, &case!(7));
        assert!(vertical[..k_len - 127].iter().all(|&x| x == vertical[0]));
        assert!(slash[..k_len - 127].iter().all(|&x| x == slash[0]));
    });
}

#[test]
fn a_needle_is_where_it_was_hidden() {
    on_every_device(|device| {
        let k_len = 1300;
        for (key, dim) in [(3, 64), (1023, 128), (1024, 64), (1170, 128)] {
            let shape = ragged(1, 1, dim, &[(k_len, k_len)]);
            let mut call = Call::<bf16>::random(&mut Rng::new(key as u64), &shape, plain(64));
            let layout = |tokens| lacuna_core::Layout::thd(tokens, 1, dim);
            call.q = Tensor::from_fn(layout(k_len), |_, _, d| if d == 1 { 40.0 } else { 0.0 });
            call.k = Tensor::from_fn(layout(k_len), |j, _, d| if (j, d) == (key, 1) { 40.0 } else { 0.0 });
            let Scores { vertical, slash } = call.check(device, &case!(key as u64));
            assert_eq!(vertical[key], 64.0);
            let hit = slash.iter().enumerate().filter(|&(_, &x)| x > 0.5).map(|(o, _)| o);
            assert!(hit.eq(k_len - 64 - key..k_len - key), "{key}");
        }
    });
}

#[test]
fn heads_and_sequences_do_not_depend_on_their_neighbours() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let lengths: Vec<_> = (0..3).map(|_| (rng.range(0..=150), rng.range(0..=1200))).collect();
        let shape = ragged(4, 2, 64, &lengths);
        let options = Options { gqa_interleave: rng.chance(0.5), ..plain(100) };
        let call = Call::<bf16>::random(&mut rng, &shape, options);
        let all = call.run(device);
        let case = case!(seed, "{lengths:?} {options:?}");
        for (b, &pair) in lengths.iter().enumerate() {
            let alone = Call {
                q: call.q.tokens(shape.seqlens.q_range(b)),
                k: call.k.tokens(shape.seqlens.k_range(b)),
                shape: ragged(4, 2, 64, &[pair]),
                options,
            };
            let got = alone.run(device);
            let range = 4 * shape.seqlens.k_range(b).start..4 * shape.seqlens.k_range(b).end;
            testing::assert_bits(&got.vertical, &all.vertical[range.clone()], &case);
            testing::assert_bits(&got.slash, &all.slash[range], &case);
        }
        // Swapped KV heads swap the results of their groups.
        let order = if options.gqa_interleave { [1, 0, 3, 2] } else { [2, 3, 0, 1] };
        let swapped = Call { q: call.q.heads(&order), k: call.k.heads(&[1, 0]), ..call.clone() }.run(device);
        for b in 0..3 {
            let (start, len) = (4 * shape.seqlens.k_range(b).start, shape.seqlens.seqlen_k(b));
            for (h, &from) in order.iter().enumerate() {
                let of = |scores: &[f32], h: usize| scores[start + h * len..][..len].to_vec();
                testing::assert_bits(&of(&swapped.vertical, h), &of(&all.vertical, from), &case);
                testing::assert_bits(&of(&swapped.slash, h), &of(&all.slash, from), &case);
            }
        }
    });
}

#[test]
fn what_lies_outside_the_sequence_does_not_matter() {
    // Sequences without keys or queries between others, whose tokens are NaN; so are all queries before the probe.
    on_every_device(|device| {
        let shape = ragged(2, 1, 128, &[(60, 75), (0, 33), (40, 0), (50, 1057)]);
        let mut call = Call::<f16>::random(&mut Rng::new(8), &shape, plain(37));
        let clean = call.run(device);
        call.k.poison(shape.seqlens.k_range(1));
        call.q.poison(shape.seqlens.q_range(2));
        for b in [0, 3] {
            let end = shape.seqlens.q_range(b).end - 37;
            call.q.poison(shape.seqlens.q_range(b).start..end);
        }
        let got = call.run(device);
        testing::assert_bits(&got.vertical, &clean.vertical, &case!(8));
        testing::assert_bits(&got.slash, &clean.slash, &case!(8));
        assert!(got.vertical.iter().all(|x| x.is_finite()));
    });
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let shape = ragged(2, 1, 64, &[(70, 1100), (9, 40)]);
    let call = Call::<bf16>::random(&mut Rng::new(9), &shape, plain(64));
    let run = |scheduler| {
        let (context, _) = emulator(EmulatorOptions { scheduler, ..Default::default() });
        call.run(&Device { context, margin: 0 })
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2), Scheduler::Adversarial(3)] {
        let got = run(scheduler);
        testing::assert_bits(&got.vertical, &want.vertical, &case!(9, "{scheduler:?}"));
        testing::assert_bits(&got.slash, &want.slash, &case!(9, "{scheduler:?}"));
    }
}

#[test]
fn keys_are_read_twice_and_nothing_else_of_their_size_moves() {
    let (chunk, dim, heads) = (probe_chunk_keys(1) as usize, 64, 2);
    let k_len = 3 * chunk;
    let shape = ragged(heads, 1, dim, &[(128, k_len)]);
    let call = Call::<bf16>::random(&mut Rng::new(10), &shape, plain(128)).contiguous();
    let (context, driver) = emulator(EmulatorOptions::default());
    let mut plan = call.plan(&context).unwrap();
    assert_eq!(plan.workspace_bytes(), heads * (3 * 128 * 8 + 2 * k_len * 4));
    let device = Device { context, margin: 0 };
    call.run_with(&device, &mut plan);

    let counters = |name: &str| driver.report(name).expect("a launch").counters;
    let [lse, sums] = ["lse", "sums"].map(|pass| counters(&format!("probe_bf16_d{dim}_{pass}")));
    for pass in [&lse, &sums] {
        assert_eq!(pass.totals().local_bytes, 0, "spills or local arrays");
        assert_eq!(pass.class(Class::Generic).warp_instructions, 0, "generic accesses");
        // Stores and loads of diagonals among them.
        assert_eq!(pass.totals().shared_conflict_factor(), 1.0, "bank conflicts");
    }
    // Queries once per chunk. Keys once per head; the second pass reads 128 beyond each chunk but the last.
    let (queries, keys) = (3 * 128 * 2 * dim, k_len * 2 * dim);
    let copied = |pass: &Counters| pass.class(Class::AsyncCopy).global_bytes;
    assert_eq!(copied(&lse), (heads * (queries + keys)) as u64);
    assert_eq!(copied(&sums), (heads * (queries + keys + 2 * 128 * 2 * dim)) as u64);
    let stored = |pass: &Counters| pass.opcode("st.global").global_bytes;
    assert_eq!(stored(&lse), (heads * 3 * 128 * 8) as u64);
    assert_eq!(stored(&sums), (heads * 2 * k_len * 4) as u64);
    // A multiple of 8 chunks is loaded, and the table of sequences by every thread.
    let loaded = |pass: &Counters| pass.opcode("ld.global").global_bytes;
    let table = (heads * 3 * 128 * size_of::<SearchSequence>()) as u64;
    assert!(loaded(&lse) <= table, "{}", loaded(&lse));
    assert!(loaded(&sums) <= table + (heads * 3 * 8 * 128 * 8) as u64, "{}", loaded(&sums));
}

#[test]
fn the_raw_level_gives_the_same_bits() {
    on_every_device(|device| {
        let call = Call::<f16>::random(&mut Rng::new(11), &ragged(2, 1, 64, &[(9, 50), (7, 7)]), plain(8));
        let want = call.run(device);
        let mut plan = call.plan(&device.context).unwrap();
        let (q, k) =
            (OnDevice::copy(device, &call.q.view(), "q"), OnDevice::copy(device, &call.k.view(), "k"));
        let stream = device.context.new_stream().unwrap();
        // SAFETY: tensors of the plan's shape on its device, which outlive the work.
        unsafe { plan.run_raw(stream.raw(), q.raw(), k.raw()).unwrap() };
        stream.synchronize().unwrap();
        testing::assert_bits(&plan.vertical().to_host(&stream).unwrap(), &want.vertical, &case!(11));
        testing::assert_bits(&plan.slash().to_host(&stream).unwrap(), &want.slash, &case!(11));
        let crooked = RawTensor { token_stride: 63, ..k.raw() };
        // SAFETY: refused before anything is queued.
        let why = unsafe { plan.run_raw(stream.raw(), q.raw(), crooked) }.expect_err("a stride of 63");
        assert!(why.to_string().contains('k'), "{why}");
    });
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::emulated();
    let shape = ragged(2, 1, 64, &[(4, 4)]);
    let error = |shape: &AttentionShape, options| {
        Plan::<bf16>::new(&device.context, shape, &options).expect_err("a bad argument").to_string()
    };
    for last_q in [0, PROBE_ROWS as usize + 1] {
        assert!(error(&shape, plain(last_q)).contains("last_q"));
    }
    assert!(error(&ragged(2, 1, 96, &[(4, 4)]), plain(4)).contains("head_dim"));
    let huge = Options { softmax_scale: Some(1e9), ..plain(4) };
    assert!(error(&shape, huge).contains("softmax_scale"));
    let why = Plan::<f32>::new(&device.context, &shape, &plain(4)).expect_err("f32").to_string();
    assert!(why.contains("dtype"), "{why}");
    let call = Call::<bf16>::random(&mut Rng::new(1), &ragged(2, 1, 64, &[(5, 5)]), plain(4));
    let mut plan = Plan::<bf16>::new(&device.context, &shape, &plain(4)).unwrap();
    assert!(call.try_run_with(&device, &mut plan).expect_err("another shape").to_string().contains("q"));
}
