//! Decode attention against the reference.

mod common;

use common::attention::{Expected, Spoil};
use common::decode::{Call, Sizes};
use common::{Device, Half, OnDevice, assert_same, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, DecodeShape, Error, Layout};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_gpu::tile_size::{decode_split_keys, max_decode_splits};
use lacuna_kernels_host::decode_attention::Plan;
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor, decode_attention_workspace_bytes};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, Tensor, nans};

const HEAD_DIMS: [usize; 2] = [64, 128];

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(200).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Rows of a group: up to 16 in one tile for two cases of three, else more, up to several tiles.
        let heads_k = rng.range(1..=2);
        let (group, seqlen_q) = if seed % 3 == 0 {
            (*rng.choose(&[3, 8, 16]), rng.range(1..=12))
        } else {
            (rng.range(1..=8), rng.range(1..=2))
        };
        let capacity = if seed % 5 == 0 { rng.range(300..=700) } else { rng.range(1..=130) };
        let seqlens: Vec<u32> = (0..rng.range(1..=3))
            .map(|_| if rng.chance(0.15) { 0 } else { rng.range(0..=capacity) as u32 })
            .collect();
        let options = common::random_options(&mut rng);
        let sizes = Sizes { seqlen_q, heads: group * heads_k, heads_k, head_dim, capacity };
        let call = Call::<T>::random(&mut rng, sizes, &seqlens, options);
        call.check(device, &case!(seed, "{sizes:?} filled {seqlens:?} {options:?}"));
    });
}

crate::common::seeded!();

#[test]
fn split_boundaries() {
    let split = decode_split_keys(1) as usize;
    let mut cases = Vec::new();
    for head_dim in HEAD_DIMS {
        for len in [1, 63, 64, 65, split - 1, split, split + 1, 2 * split, 3 * split - 1, 3 * split + 1] {
            cases.push((head_dim, len));
        }
    }
    for_each(&cases, |device, &(head_dim, len)| {
        let mut rng = Rng::new(len as u64);
        let sizes = Sizes { seqlen_q: 1, heads: 4, heads_k: 1, head_dim, capacity: 3 * split + 1 };
        // A full batch: the short sequence has splits that it must not write.
        let call = Call::<bf16>::random(
            &mut rng,
            sizes,
            &[len as u32, 3 * split as u32],
            AttentionOptions::default(),
        );
        call.check(device, &case!(len as u64, "{len} keys, d {head_dim}"));
    });
}

#[test]
fn query_rows_and_head_groups() {
    let mut cases = Vec::new();
    for (heads, heads_k) in [(1, 1), (2, 2), (4, 2), (4, 1), (8, 1), (16, 1), (17, 1), (32, 2), (64, 1)] {
        for seqlen_q in [1, 2, 5, 16] {
            cases.push((heads, heads_k, seqlen_q));
        }
    }
    cases.extend([(1, 1, 63), (1, 1, 64), (3, 1, 64)]);
    for_each(&cases, |device, &(heads, heads_k, seqlen_q)| {
        let seed = (heads * 100 + seqlen_q) as u64;
        let mut rng = Rng::new(seed);
        let sizes = Sizes { seqlen_q, heads, heads_k, head_dim: 64, capacity: 90 };
        let options = AttentionOptions { gqa_interleave: seqlen_q == 5, ..Default::default() };
        // One sequence has fewer keys than queries where there are several.
        let seqlens = [77, (seqlen_q / 2) as u32];
        let call = Call::<f16>::random(&mut rng, sizes, &seqlens, options);
        call.check(device, &case!(seed, "{sizes:?} {options:?}"));
    });
}

#[test]
fn rows_that_see_nothing_are_zero() {
    on_every_device(|device| {
        let sizes = Sizes { seqlen_q: 4, heads: 2, heads_k: 1, head_dim: 64, capacity: 20 };
        let call = Call::<bf16>::random(&mut Rng::new(1), sizes, &[0, 2, 20], AttentionOptions::default());
        let (out, lse) = call.check(device, &case!(1));
        // Sequence 0 has no keys; in sequence 1 the first two of four queries come before the first key.
        assert!(out[..6 * 2 * 64].iter().all(|x| x.to_f32() == 0.0));
        for h in 0..2 {
            assert!(lse[h * 12..][..6].iter().all(|&x| x == f32::NEG_INFINITY));
            assert!(lse[h * 12..][6..12].iter().all(|x| x.is_finite()));
        }
    });
}

#[test]
fn the_lse_need_not_be_asked_for() {
    on_every_device(|device| {
        let sizes = Sizes { seqlen_q: 2, heads: 4, heads_k: 2, head_dim: 64, capacity: 300 };
        let call = Call::<f16>::random(&mut Rng::new(1), sizes, &[290, 0], AttentionOptions::default());
        let want = common::unwrap(call.run(device), &case!(1));
        let mut plan = call.plan(device, 300).unwrap();
        let (out, lse) = common::unwrap(call.run_asking(device, &mut plan, false), &case!(1));
        testing::assert_bits(&out, &want.0, &case!(1));
        assert!(lse.iter().all(|x| x.is_nan()));
    });
}

#[test]
fn what_is_not_finite_reaches_the_rows_that_see_it_and_no_other() {
    let cases: Vec<(u64, usize)> = testing::seeds(6).flat_map(|s| HEAD_DIMS.map(|d| (s, d))).collect();
    for_each(&cases, |device, &(seed, head_dim)| {
        let mut rng = Rng::new(seed);
        // Packed rows for both tiles, tokens that see different keys among them.
        let group = if seed % 2 == 0 { 1 } else { 2 };
        let sizes = Sizes { seqlen_q: 16, heads: 2 * group, heads_k: 2, head_dim, capacity: 300 };
        let clean = Call::<bf16>::random(&mut rng, sizes, &[290, 33], AttentionOptions::default());
        let mut call = clean.clone();
        call.spoil(&mut rng, Spoil::BOTH[seed as usize / 2 % 2]);
        let expected = Expected { tolerance: clean.expect().tolerance, ..call.expect() };
        expected.assert(call.run(device), &case!(seed, "{sizes:?}"));
    });
}

#[test]
fn one_hot_weights_are_exact() {
    let seeds: Vec<u64> = testing::seeds(4).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (seqlen_q, len, dim) = (3, rng.range(300..=600), *rng.choose(&HEAD_DIMS));
        let (q, k_cache, chosen) =
            Tensor::<bf16>::one_hot(&mut rng, seqlen_q, len, 4, 2, dim, |i| len - seqlen_q + i + 1);
        let v_cache = Tensor::sparse_integers(&mut rng, len, 2, dim);
        let call = Call {
            q,
            k_cache,
            v_cache,
            cache_seqlens: vec![len as u32],
            out: Layout::thd(seqlen_q, 4, dim),
            options: AttentionOptions::default(),
        };
        let want: Vec<bf16> = (0..seqlen_q)
            .flat_map(|i| (0..4).map(move |h| (i, h)))
            .flat_map(|(i, h)| call.v_cache.view().row(chosen[i], h / 2).to_vec())
            .collect();
        let case = case!(seed, "{len} keys, d {dim}");
        testing::assert_bits(&common::unwrap(call.run(device), &case).0, &want, &case);
    });
}

#[test]
fn a_row_does_not_depend_on_the_batch_or_the_plan() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let capacity = rng.range(100..=600);
        let seqlens: Vec<u32> = (0..3).map(|_| rng.range(0..=capacity) as u32).collect();
        let sizes = Sizes { seqlen_q: rng.range(1..=3), heads: 4, heads_k: 2, head_dim: 64, capacity };
        let options = common::random_options(&mut rng);
        let call = Call::<bf16>::random(&mut rng, sizes, &seqlens, options);
        let case = case!(seed, "{sizes:?} filled {seqlens:?} {options:?}");
        let all = common::unwrap(call.run(device), &case);
        let row = sizes.heads * sizes.head_dim;
        for b in 0..3 {
            let q_range = b * sizes.seqlen_q..(b + 1) * sizes.seqlen_q;
            let k_range = b * capacity..(b + 1) * capacity;
            let alone = Call {
                q: call.q.tokens(q_range.clone()),
                k_cache: call.k_cache.tokens(k_range.clone()),
                v_cache: call.v_cache.tokens(k_range),
                cache_seqlens: vec![seqlens[b]],
                out: Layout::thd(sizes.seqlen_q, sizes.heads, sizes.head_dim),
                options,
            };
            // A plan for more than the cache holds launches more CTAs, which leave.
            let mut plan = alone.plan(device, 4 * capacity).unwrap();
            let got = common::unwrap(alone.run_with(device, &mut plan), &case);
            let lse = (0..sizes.heads)
                .flat_map(|h| all.1[h * 3 * sizes.seqlen_q..][q_range.clone()].to_vec())
                .collect();
            let want = (all.0[q_range.start * row..q_range.end * row].to_vec(), lse);
            assert_same(&got, &want, &case);
        }
    });
}

#[test]
fn a_plan_runs_for_every_token() {
    on_every_device(|device| {
        let sizes = Sizes { seqlen_q: 1, heads: 4, heads_k: 2, head_dim: 128, capacity: 300 };
        let full = Call::<f16>::random(&mut Rng::new(8), sizes, &[300, 300], AttentionOptions::default());
        let mut plan = full.plan(device, 300).unwrap();
        // Long, short, long: partial results of an earlier call leave nothing behind.
        for lens in [[300, 10], [10, 257], [0, 300], [256, 256]] {
            let call = Call { cache_seqlens: lens.to_vec(), ..full.clone() };
            let case = case!(8, "{lens:?}");
            let want = common::unwrap(call.run(device), &case);
            assert_same(&common::unwrap(call.run_with(device, &mut plan), &case), &want, &case);
        }
    });
}

#[test]
fn long_sequences_have_longer_splits() {
    // Emulated, one row over 16385 keys: where splits grow from 256 to 512 keys.
    for_each(&[0x4000, 0x4001], |device, &len| {
        let sizes = Sizes { seqlen_q: 1, heads: 1, heads_k: 1, head_dim: 64, capacity: len as usize };
        let call = Call::<bf16>::random(&mut Rng::new(2), sizes, &[len], AttentionOptions::default());
        call.check(device, &case!(2, "{len} keys"));
    });
}

#[test]
fn the_last_of_many_splits_decides() {
    on_every_device(|device| {
        // More splits than a warp has lanes, and weights that overflow unless the largest logit of all is known.
        let len = 33 * decode_split_keys(1) as usize + 5;
        let sizes = Sizes { seqlen_q: 1, heads: 2, heads_k: 1, head_dim: 64, capacity: len };
        let call = Call::<bf16>::random(&mut Rng::new(4), sizes, &[len as u32], AttentionOptions::default());
        call.decided_by_keys_from(len - 5).check(device, &case!(4, "{len} keys"));
    });
}

#[test]
fn the_raw_level_gives_the_same_bits() {
    on_every_device(|device| {
        let sizes = Sizes { seqlen_q: 2, heads: 8, heads_k: 2, head_dim: 64, capacity: 300 };
        let call = Call::<bf16>::random(&mut Rng::new(3), sizes, &[280, 33], AttentionOptions::default());
        let want = common::unwrap(call.run(device), &case!(3));
        let context = &device.context;
        let mut plan = call.plan(device, 300).unwrap();
        // The same caches in one axis of tokens, the second sequence first.
        let cache = |t: &Tensor<bf16>| {
            Tensor::<bf16>::from_fn(Layout::thd(600, 2, 64), |t_new, h, d| {
                t.view().row((t_new + 300) % 600, h)[d].to_f32() as f64
            })
        };
        let (k, v) = (cache(&call.k_cache), cache(&call.v_cache));
        let q = OnDevice::copy(device, &call.q.view(), "q");
        let k = OnDevice::copy(device, &k.view(), "k");
        let v = OnDevice::copy(device, &v.view(), "v");
        let starts = DeviceBuffer::from_host(context, &[300u32, 0], "k_starts").unwrap();
        let lens = DeviceBuffer::from_host(context, &[280u32, 33], "k_lens").unwrap();
        let out = OnDevice::<bf16>::poisoned(device, call.out, "out");
        let lse = DeviceBuffer::from_host(context, &nans::<f32>(8 * 4), "lse").unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: the tensors have the plan's shape and live until the stream is synchronised; the ranges lie in the
        // caches.
        unsafe {
            plan.run_raw(
                stream.raw(),
                q.raw(),
                k.raw(),
                v.raw(),
                starts.ptr(),
                lens.ptr(),
                out.raw(),
                lse.ptr(),
            )
        }
        .unwrap();
        stream.synchronize().unwrap();
        assert_same(&(out.read(device), lse.to_host(&stream).unwrap()), &want, &case!(3));
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let cases: Vec<(u64, usize, usize)> =
        HEAD_DIMS.into_iter().flat_map(|d| [(1, d, 1), (2, d, 9)]).collect();
    for_each(&cases, |_, &(seed, head_dim, seqlen_q)| {
        let sizes = Sizes { seqlen_q, heads: 4, heads_k: 1, head_dim, capacity: 400 };
        let call = Call::<bf16>::random(&mut Rng::new(seed), sizes, &[390, 100], AttentionOptions::default());
        let run = |scheduler| {
            let (context, _) = common::emulator(Options { scheduler, ..Options::default() });
            let case = case!(seed, "{scheduler:?} {sizes:?}");
            common::unwrap(call.run(&Device { context, margin: 0 }), &case)
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in
            [Scheduler::Random(seed), Scheduler::Adversarial(seed), Scheduler::Adversarial(seed + 1)]
        {
            assert_same(&run(scheduler), &want, &case!(seed, "{scheduler:?} {sizes:?}"));
        }
    });
}

#[test]
fn counters_state_the_design() {
    for (head_dim, heads) in [(64, 4), (128, 4), (64, 32), (128, 32)] {
        let kernel = kernel::decode_attention(Dtype::Bf16, head_dim as u32, heads as u32).unwrap();
        let (context, driver) = common::emulator(Options::default());
        let len = 512;
        let sizes = Sizes { seqlen_q: 1, heads, heads_k: 1, head_dim, capacity: len };
        let call = Call::<bf16>::random(&mut Rng::new(5), sizes, &[len as u32], AttentionOptions::default());
        common::unwrap(call.run(&Device { context, margin: 0 }), &case!(5));
        let counters = driver.report(kernel.kernel.name).expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0, "{}: spills or local arrays", kernel.kernel.name);
        assert_eq!(counters.opcode("ldmatrix").shared_conflict_factor(), 1.0, "{}", kernel.kernel.name);
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "{}", kernel.kernel.name);
        // All heads of the group share one pass over the keys and values.
        let rows = (heads as u64).next_multiple_of(u64::from(kernel.tile.tile_m));
        assert_eq!(counters.totals().macs, 2 * rows * (len * head_dim) as u64, "{}", kernel.kernel.name);
        let splits = max_decode_splits(len as u32) as u64;
        let stored = |name| driver.report(name).expect("a launch").counters.opcode("st.global").global_bytes;
        assert_eq!(stored(kernel.kernel.name), splits * (heads * 4 * (head_dim + 1)) as u64);
        let merge = kernel::decode_merge(Dtype::Bf16, head_dim as u32).unwrap().kernel.name;
        assert_eq!(stored(merge), (heads * (2 * head_dim + 4)) as u64, "each output once");
        let (kv, q) = ((2 * len * head_dim * 2) as u64, splits * (heads * head_dim * 2) as u64);
        let copied = counters.class(Class::AsyncCopy).global_bytes;
        assert!((kv..=kv + q).contains(&copied), "{}: {copied} bytes for {kv}", kernel.kernel.name);
    }
}

#[test]
fn the_workspace_is_as_large_as_it_says() {
    on_every_device(|device| {
        let before = device.context.memory().unwrap().free;
        let sizes = DecodeShape {
            batch: 2,
            max_seqlen_q: 3,
            num_heads: 8,
            num_heads_k: 2,
            head_dim: 128,
            max_seqlen_k: 5000,
        };
        let plan = Plan::<bf16>::new(&device.context, &sizes, &AttentionOptions::default()).unwrap();
        let used = (before - device.context.memory().unwrap().free) as usize;
        let workspace = decode_attention_workspace_bytes(&sizes).unwrap();
        // A GPU hands out memory in pieces of up to 2 MiB.
        assert!(used >= workspace || device.margin > 0, "{used} {workspace}");
        assert!(used <= workspace + (8 << 20), "{used} {workspace}");
        drop(plan);
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let options = AttentionOptions::default();
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let sizes = |batch, max_seqlen_q, num_heads, num_heads_k, head_dim, max_seqlen_k| DecodeShape {
            batch,
            max_seqlen_q,
            num_heads,
            num_heads_k,
            head_dim,
            max_seqlen_k,
        };
        let new = |batch, seqlen_q, heads, heads_k, head_dim, max| {
            Plan::<bf16>::new(context, &sizes(batch, seqlen_q, heads, heads_k, head_dim, max), &options)
        };
        refuses(new(1, 0, 4, 2, 64, 100).unwrap_err(), &["decode_attention: max_seqlen_q", "1..=64", "0"]);
        refuses(new(1, 65, 4, 2, 64, 100).unwrap_err(), &["decode_attention: max_seqlen_q", "65"]);
        refuses(new(1, 1, 4, 3, 64, 100).unwrap_err(), &["num_heads"]);
        refuses(new(1, 1, 4, 2, 96, 100).unwrap_err(), &["decode_attention: head_dim", "96"]);
        refuses(new(1 << 20, 1, 4, 2, 64, 100).unwrap_err(), &["decode_attention", "65535"]);
        refuses(new(usize::MAX, 64, 4, 2, 64, 100).unwrap_err(), &["too large"]);
        refuses(new(60_000, 64, 128, 1, 128, 65_000).unwrap_err(), &["65535"]);
        assert!(Plan::<f32>::new(context, &sizes(1, 1, 4, 2, 64, 100), &options).is_err());

        let mut plan = new(2, 1, 4, 2, 64, 80).unwrap();
        let tensor = |layout| DeviceTensor::<bf16>::uninit(context, layout, "tensor").unwrap();
        let (q, cache) = (tensor(Layout::thd(2, 4, 64)), tensor(Layout::bshd(2, 100, 2, 64)));
        let (short, three) = (tensor(Layout::bshd(2, 99, 2, 64)), tensor(Layout::thd(3, 4, 64)));
        let other = tensor(Layout::bhsd(2, 2, 100, 64));
        let mut out = tensor(Layout::thd(2, 4, 64));
        let mut out = out.view_mut().unwrap();
        let stream = context.default_stream();
        for (q, k, v, lens, part) in [
            (&three, &cache, &cache, &[1, 1][..], "q"),
            (&q, &cache, &short, &[1, 1], "v_cache"),
            (&q, &three, &three, &[1, 1], "k_cache"),
            (&q, &cache, &other, &[1, 1], "k_cache and v_cache"),
            (&q, &cache, &cache, &[1], "cache_seqlens"),
            (&q, &cache, &cache, &[81, 1], "at most 80"),
        ] {
            let got = plan.run(&stream, &q.view(), &k.view(), &v.view(), lens, &mut out, None);
            refuses(got.unwrap_err(), &["decode_attention: ", part]);
        }
        let mut lse = DeviceBuffer::<f32>::uninit(context, 9, "lse").unwrap();
        let got =
            plan.run(&stream, &q.view(), &cache.view(), &cache.view(), &[1, 1], &mut out, Some(&mut lse));
        refuses(got.unwrap_err(), &["softmax_lse", "[4, 2]"]);
    });
}
