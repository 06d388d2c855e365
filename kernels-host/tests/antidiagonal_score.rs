//! Anti-diagonal scores against the reference.

mod common;

use common::scores::{Call, in_halves, to_reference};
use common::{Device, Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{AttentionShape, Error, Layout, Seqlens, Threshold, XAttentionCompat, XAttentionOptions};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_host::antidiagonal_score::Plan;
use lacuna_kernels_host::{DeviceTensor, RawTensor};
use lacuna_reference::testing::{
    self, Rng, Tensor, Tolerance, assert_bits, assert_close, edge_lengths, golden,
};
use lacuna_reference::{block_select, case};

fn single(q: usize, k: usize, heads: usize, heads_k: usize, dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, dim, Seqlens::single(q, k).unwrap()).unwrap()
}

fn of(stride: usize, block_size: usize) -> XAttentionOptions {
    XAttentionOptions { stride, block_size, ..Default::default() }
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(50).collect();
    for_each(&seeds, |device, &seed| {
        let call = Call::<T>::of_seed(seed, head_dim, 270);
        let case = case!(seed, "{} causal {} {:?} {:?}", T::DTYPE, call.causal, call.shape, call.options);
        call.check(device, &call.expect(), &case);
    });
}

crate::common::seeded!();

#[test]
fn golden_scores_and_selections_of_the_published_code() {
    let (shape, q, k) = golden::inputs(2, 2);
    let (q, k) = in_halves(&q, &k);
    let shape = AttentionShape { head_dim: 64, ..shape };
    let rows: Vec<_> = golden::x_attention().collect();
    for_each(&rows, |device, row| {
        let options = XAttentionOptions { softmax_scale: Some(0.25), ..row.options() };
        let call =
            Call { shape: shape.clone(), q: q.clone(), k: k.clone(), options: options.clone(), causal: true };
        let scores = common::unwrap(call.run(device), &case!(0, "{row:?}"));
        let scores = to_reference(&shape, 128, &scores);
        let mask = block_select(&shape, &scores, &options, true).unwrap();
        assert_eq!(golden::bit_rows(&mask, row.head), row.rows, "{row:?}");
        let last = match row.stride {
            8 => [3.23564, 1.471, 1.6952, 1.55693, 1.43068, 1.54083, 1.46245, 0.60725],
            _ => [1.21115, 0.88649, 0.98201, 0.95418, 0.79978, 0.8744, 0.87573, 0.41626],
        };
        if row.compat == XAttentionCompat::ORIGINAL {
            let got = scores.row(0, 0, 7);
            assert_close(got, &last, Tolerance::absolute(8e-6), &case!(0, "stride {}", row.stride));
        }
    });
}

/// Several tiles of queries and of keys, several strips that no row sees.
#[test]
fn long_sequences() {
    let cases = [(4, 64, 1300, 0), (4, 128, 600, 777), (8, 64, 1100, 1500), (16, 128, 700, 3600)];
    for_each(&cases, |device, &(stride, block_size, len, past)| {
        let seed = (stride + block_size) as u64;
        let mut rng = Rng::new(seed);
        let shape = single(len, len + past, 1, 1, 64);
        let call = Call::<bf16>::random(&mut rng, shape, of(stride, block_size), true);
        call.check(device, &call.expect(), &case!(seed, "{:?} {:?}", call.shape, call.options));
    });
}

#[test]
fn edge_lengths_and_pasts() {
    let mut cases = Vec::new();
    for (stride, block_size) in [(8, 128), (16, 64)] {
        let lengths = edge_lengths(block_size).map(|len| len.min(4 * block_size + 5));
        for len in lengths.into_iter().chain([1, stride - 1, stride, stride + 1]) {
            for past in [0, 1, block_size, 777] {
                cases.push((stride, block_size, len, past));
            }
        }
    }
    for_each(&cases, |device, &(stride, block_size, len, past)| {
        let seed = (len + past) as u64;
        let shape = single(len, len + past, 1, 1, 64);
        let call = Call::<f16>::random(&mut Rng::new(seed), shape, of(stride, block_size), true);
        let got = call.check(device, &call.expect(), &case!(seed, "{:?} {:?}", call.shape, call.options));
        // A row of blocks sums to its groups.
        let n_blocks = (len + past).div_ceil(block_size);
        for (m, row) in got.chunks(n_blocks).enumerate() {
            let rows = block_size.min(len - m * block_size);
            let sum: f64 = row.iter().map(|&x| x as f64).sum();
            // The partial last group may find no pair among the first keys.
            let groups = if len + past < 2 * stride { sum } else { rows.div_ceil(stride) as f64 };
            assert!((sum - groups).abs() < 1e-4, "{sum} for {groups} groups of {:?}", call.shape);
        }
    });
}

#[test]
fn lengths_that_do_not_belong_together() {
    on_every_device(|device| {
        for (q, k) in [(0, 0), (0, 100), (100, 0), (300, 7), (200, 150), (1, 513), (799, 3)] {
            for options in
                [of(8, 64), XAttentionOptions { compat: XAttentionCompat::ORIGINAL, ..of(16, 128) }]
            {
                for causal in [false, true] {
                    let shape = single(q, k, 2, 1, 64);
                    let call = Call::<bf16>::random(&mut Rng::new(7), shape, options.clone(), causal);
                    call.check(device, &call.expect(), &case!(7, "{q} {k} {causal} {options:?}"));
                }
            }
        }
    });
}

#[test]
fn equal_keys_score_exactly_alike() {
    for_each(&[(4, 128), (8, 128), (16, 128), (16, 64)], |device, &(stride, block_size)| {
        let shape = single(1111, 1111, 2, 1, 64);
        let mut call = Call::<bf16>::random(&mut Rng::new(3), shape, of(stride, block_size), true);
        call.k = Tensor::from_fn(Layout::thd(1111, 1, 64), |_, _, d| 0.1 * d as f64 - 3.0);
        let scores = to_reference(&call.shape, block_size, &call.run(device).unwrap());
        for m in 2..1111usize.div_ceil(block_size) {
            let row = &scores.row(0, 1, m)[..m];
            assert!(row.iter().all(|x| x.to_bits() == row[0].to_bits()), "stride {stride}: {row:?}");
        }
        // With ties the lowest blocks win: the forced ones, and those after the first.
        let options = XAttentionOptions { threshold: Threshold::Scalar(0.5), ..call.options };
        let mask = block_select(&call.shape, &scores, &options, true).unwrap();
        let row = mask.row(0, 0, 6);
        assert!(row[..row.len() - 1].iter().zip(0..).all(|(&n, want)| n == want), "{row:?}");
    });
}

/// More tiles than there are multiprocessors: CTAs take several, and must leave nothing behind.
#[test]
fn a_sequence_does_not_depend_on_the_batch() {
    on_every_device(|device| {
        let lengths = [(700u32, 900u32), (0, 50), (300, 300), (17, 1100), (40, 0)];
        let sums = |of: fn(&(u32, u32)) -> u32| {
            let mut sums = vec![0];
            lengths.iter().for_each(|pair| sums.push(sums[sums.len() - 1] + of(pair)));
            sums
        };
        let seqlens = Seqlens::new(sums(|pair| pair.0), sums(|pair| pair.1)).unwrap();
        let heads = 48;
        let shape = AttentionShape::new(heads, 6, 64, seqlens).unwrap();
        let options = of(16, 64);
        assert!(shape.seqlens.batch() * heads > 2 * device.context.info().multiprocessors as usize);
        let call = Call::<bf16>::random(&mut Rng::new(7), shape.clone(), options.clone(), true);
        let all = to_reference(&shape, 64, &common::unwrap(call.run(device), &case!(7)));
        for b in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            // One head alone: of another grid altogether.
            for h in [0, 29] {
                let alone = Call {
                    shape: single(q_range.len(), k_range.len(), 1, 1, 64),
                    q: call.q.tokens(q_range.clone()).heads(&[h]),
                    k: call.k.tokens(k_range.clone()).heads(&[h / 8]),
                    options: options.clone(),
                    causal: true,
                };
                let got = to_reference(&alone.shape, 64, &alone.run(device).unwrap());
                for m in 0..q_range.len().div_ceil(64) {
                    let (got, want) = (got.row(0, 0, m), all.row(b, h, m));
                    assert_eq!(got, want, "sequence {b}, head {h}, row {m}");
                }
            }
        }
    });
}

#[test]
fn heads_that_change_places_take_their_scores_along() {
    on_every_device(|device| {
        for gqa_interleave in [false, true] {
            let options = XAttentionOptions { gqa_interleave, ..of(8, 64) };
            let call = Call::<f16>::random(&mut Rng::new(9), single(200, 333, 6, 2, 64), options, true);
            let head_k = |h: usize| if gqa_interleave { h % 2 } else { h / 3 };
            // Both KV heads change places, and the query heads with them.
            let order: Vec<usize> =
                (0..6).map(|h| (0..6).filter(|&g| head_k(g) != head_k(h)).nth(h % 3).unwrap()).collect();
            let mut permuted = call.clone();
            permuted.q = call.q.heads(&order);
            permuted.k = call.k.heads(&[1, 0]);
            let [want, got] =
                [&call, &permuted].map(|call| to_reference(&call.shape, 64, &call.run(device).unwrap()));
            let mut seen = [false; 6];
            for (h, &from) in order.iter().enumerate() {
                seen[from] = true;
                for m in 0..4 {
                    assert_eq!(got.row(0, h, m), want.row(0, from, m), "head {h}, row {m}");
                }
            }
            assert!(seen.iter().filter(|&&seen| seen).count() > 2, "{order:?}");
        }
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let cases: Vec<(u64, usize)> = [(1, 64), (2, 128)].into();
    for_each(&cases, |_, &(seed, head_dim)| {
        let options = of(8, [64, 128][seed as usize % 2]);
        let call =
            Call::<bf16>::random(&mut Rng::new(seed), single(300, 2300, 2, 1, head_dim), options, true);
        let run = |scheduler| {
            let (context, _) = common::emulator(Options { scheduler, ..Options::default() });
            common::unwrap(call.run(&Device { context, margin: 0 }), &case!(seed, "{scheduler:?}"))
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in [Scheduler::Random(seed), Scheduler::Adversarial(seed), Scheduler::Adversarial(7)] {
            assert_bits(&run(scheduler), &want, &case!(seed, "{scheduler:?}"));
        }
    });
}

#[test]
fn the_raw_level_gives_the_same_bits_and_a_plan_runs_again() {
    on_every_device(|device| {
        let call = Call::<bf16>::of_seed(5, 64, 300);
        let want = common::unwrap(call.run(device), &case!(5));
        let mut plan = Plan::<bf16>::new(&device.context, &call.shape, &call.options, call.causal).unwrap();
        let (q, k) =
            (OnDevice::copy(device, &call.q.view(), "q"), OnDevice::copy(device, &call.k.view(), "k"));
        let stream = device.context.new_stream().unwrap();
        for _ in 0..2 {
            let mut scores = plan.new_scores().unwrap();
            plan.run(&stream, &q.view(), &k.view(), &mut scores).unwrap();
            assert_bits(&scores.to_host(&stream).unwrap(), &want, &case!(5));
            // SAFETY: the tensors have the plan's shape, the scores are the plan's; all live until the copy is done.
            unsafe { plan.run_raw(stream.raw(), q.raw(), k.raw(), scores.ptr()) }.unwrap();
            assert_bits(&scores.to_host(&stream).unwrap(), &want, &case!(5));
        }
    });
}

#[test]
fn counters_state_the_design() {
    for (stride, block_size, head_dim) in [(4, 128, 64), (8, 128, 128), (16, 128, 64), (16, 64, 128)] {
        let groups_per_block = (block_size / stride) as u32;
        let kernel = kernel::antidiagonal_score(Dtype::Bf16, groups_per_block).unwrap();
        let (context, driver) = common::emulator(Options::default());
        // Two tiles of keys, the second full as well.
        let groups_k = 2 * kernel.tile.tile_n as usize;
        let (q_len, k_len) = (128 * stride, groups_k * stride);
        let shape = single(q_len, k_len, 1, 1, head_dim);
        let call = Call::<bf16>::random(&mut Rng::new(5), shape, of(stride, block_size), false);
        common::unwrap(call.run(&Device { context, margin: 0 }), &case!(5));
        let name = kernel.kernel.name;
        let counters = driver.report(name).expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0, "{name}: spills or local arrays");
        assert_eq!(counters.opcode("ldmatrix").shared_conflict_factor(), 1.0, "{name}");
        assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "{name}");
        // One stride-th of the products of the whole map.
        assert_eq!(counters.totals().macs, (q_len * k_len * head_dim / stride) as u64, "{name}");
        // Queries once per tile of keys, keys once.
        let copied = counters.class(Class::AsyncCopy).global_bytes;
        assert_eq!(copied, ((2 * q_len + k_len) * head_dim * 2) as u64, "{name}");
        // Per row and strip a maximum, per row and block a sum; each score once. No map.
        let n_blocks = k_len / block_size;
        let stored = counters.opcode("st.global").global_bytes;
        let scores = q_len / block_size * n_blocks;
        assert_eq!(stored, (4 * (128 * (groups_k / 64 + n_blocks) + scores)) as u64, "{name}");
    }
}

#[test]
fn the_workspace_grows_with_the_keys_and_not_with_the_queries() {
    on_every_device(|device| {
        let bytes = |q_len: usize, k_len: usize, heads: usize| {
            let shape = single(q_len, k_len, heads, heads, 128);
            Plan::<bf16>::new(&device.context, &shape, &of(8, 128), true).unwrap().workspace_bytes()
        };
        // Per row of a CTA: a sum for each of 1024 blocks, a maximum for each of 256 strips.
        let ctas = device.context.info().multiprocessors as usize;
        assert_eq!(bytes(1 << 17, 1 << 17, 32), ctas * 128 * (1024 + 256) * 4);
        assert_eq!(bytes(1 << 20, 1 << 20, 8), ctas * 128 * (8192 + 2048) * 4);
        assert_eq!(bytes(1 << 10, 1 << 17, 2), 2 * 128 * (1024 + 256) * 4);
        assert_eq!(bytes(0, 1 << 17, 2), 0);
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let shape = single(100, 100, 4, 2, 64);
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let new = |shape: &AttentionShape, options| Plan::<bf16>::new(context, shape, &options, true);
        let plain = XAttentionOptions::default();
        for (options, parts) in [
            (of(2, 128), &["antidiagonal_score: stride", "4, 8 or 16 on a device", "2"][..]),
            (of(32, 128), &["stride", "4, 8 or 16"]),
            (of(7, 128), &["stride", "divisor"]),
            (of(8, 32), &["antidiagonal_score: block_size", "64 or 128 on a device", "32"]),
            (of(8, 256), &["block_size", "64 or 128"]),
            (XAttentionOptions { norm: 0.0, ..plain.clone() }, &["norm"]),
            (XAttentionOptions { norm: 1e-30, ..plain.clone() }, &["softmax_scale / norm", "at most"]),
            (XAttentionOptions { softmax_scale: Some(f32::NAN), ..plain.clone() }, &["softmax_scale"]),
            (XAttentionOptions { threshold: Threshold::PerHead(vec![0.5]), ..plain.clone() }, &["threshold"]),
        ] {
            refuses(new(&shape, options).unwrap_err(), parts);
        }
        refuses(new(&single(9, 9, 4, 2, 96), plain.clone()).unwrap_err(), &["head_dim", "96"]);
        refuses(new(&single(1 << 30, 1 << 30, 1, 1, 64), plain.clone()).unwrap_err(), &["too large"]);
        assert!(Plan::<f32>::new(context, &shape, &plain, true).is_err());

        let mut plan = new(&shape, plain.clone()).unwrap();
        let mut scores = plan.new_scores().unwrap();
        let tensor =
            |tokens, heads| DeviceTensor::<bf16>::uninit(context, Layout::thd(tokens, heads, 64), "x");
        let (q, k, short) = (tensor(100, 4).unwrap(), tensor(100, 2).unwrap(), tensor(99, 2).unwrap());
        let stream = context.default_stream();
        refuses(
            plan.run(&stream, &k.view(), &k.view(), &mut scores).unwrap_err(),
            &["antidiagonal_score: q"],
        );
        refuses(plan.run(&stream, &q.view(), &short.view(), &mut scores).unwrap_err(), &["k"]);
        let mut other = new(&single(100, 101, 4, 2, 64), plain).unwrap().new_scores().unwrap();
        refuses(
            plan.run(&stream, &q.view(), &k.view(), &mut other).unwrap_err(),
            &["scores", "made for 4 heads"],
        );
        let ptr = q.view().ptr().offset(8);
        // SAFETY: refused before anything is launched.
        let got = unsafe {
            let q = RawTensor::thd(ptr, 4, 64);
            plan.run_raw(stream.raw(), q, RawTensor::thd(k.view().ptr(), 2, 64), scores.ptr())
        };
        refuses(got.unwrap_err(), &["antidiagonal_score: q", "multiple of 16"]);
    });
}

/// What lies beyond a sequence, or behind the causal mask, is not looked at: NaN there changes nothing.
#[test]
fn the_scores_of_a_row_come_from_what_it_sees() {
    on_every_device(|device| {
        let call = Call::<bf16>::random(&mut Rng::new(4), single(256, 256, 1, 1, 64), of(8, 64), true);
        let want = to_reference(&call.shape, 64, &call.run(device).unwrap());
        let mut spoilt = call.clone();
        spoilt.k = Tensor::from_fn(Layout::thd(256, 1, 64), |token, _, d| {
            if token < 128 { call.k.view().row(token, 0)[d].to_f32() as f64 } else { f64::NAN }
        });
        let got = to_reference(&call.shape, 64, &spoilt.run(device).unwrap());
        for m in 0..2 {
            assert_eq!(got.row(0, 0, m), want.row(0, 0, m));
        }
        assert!(got.row(0, 0, 2).iter().any(|x| x.is_nan()));
    });
}
