//! Dense attention against the reference, the shipped PTX on every device there is.

mod common;

use common::attention::Spoil;
use common::{Device, Half, Inputs, assert_same, for_each, on_every_device, random_options, relayout};
use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, DeviceError, Error, Layout, Seqlens};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_gpu::{kernel, tile_size};
use lacuna_kernels_host::dense_attention::Plan;
use lacuna_kernels_host::{Context, DeviceBuffer, DevicePtr, DeviceTensor, RawStream, RawTensor};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Case, LENGTHS, Rng, ShapeLimits, Tensor};

const HEAD_DIMS: [usize; 2] = [64, 128];

fn limits(head_dim: &[usize; 1], max_tokens: usize) -> ShapeLimits<'_> {
    ShapeLimits { max_tokens, max_batch: 3, max_heads_k: 2, head_dims: head_dim, ..Default::default() }
}

fn shape(heads: usize, heads_k: usize, head_dim: usize, seqlen_q: usize, seqlen_k: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(seqlen_q, seqlen_k).unwrap()).unwrap()
}

/// Random inputs of a shape, compared with the reference.
fn check<T: Half>(
    device: &Device,
    rng: &mut Rng,
    shape: &AttentionShape,
    options: &AttentionOptions,
    case: &Case,
) {
    let inputs = Inputs::<T>::random(rng, shape);
    inputs.expect(shape, options, |_, _, _, _| true).assert(inputs.dense(device, shape, options), case);
}

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(200).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Most errors show in short sequences; every tenth case is longer than a tile of queries or keys.
        let max_tokens = if seed % 10 == 0 { 200 } else { 70 };
        let shape = rng.shape(&limits(&[head_dim], max_tokens));
        let options = random_options(&mut rng);
        check::<T>(device, &mut rng, &shape, &options, &case!(seed, "{shape:?} {options:?}"));
    });
}

crate::common::seeded!();

#[test]
fn known_troublesome_lengths() {
    let cases: Vec<(u64, usize, (usize, usize))> = LENGTHS
        .iter()
        .enumerate()
        // Emulated, the two longest would take as long as all others together; half of them makes the same edges.
        .map(|(seed, &(q, k))| {
            (seed as u64, HEAD_DIMS[seed % 2], if q > 600 { (q / 2, k.div_ceil(2)) } else { (q, k) })
        })
        .collect();
    for_each(&cases, |device, &(seed, head_dim, (seqlen_q, seqlen_k))| {
        let shape = shape(2, 1, head_dim, seqlen_q, seqlen_k);
        for causal in [true, false] {
            let options = AttentionOptions { causal, ..Default::default() };
            let case = case!(seed, "{seqlen_q} x {seqlen_k} d {head_dim} causal {causal}");
            check::<bf16>(device, &mut Rng::new(seed), &shape, &options, &case);
        }
    });
}

#[test]
fn tile_edges() {
    let mut cases = Vec::new();
    for head_dim in HEAD_DIMS {
        let tile = tile_size::dense_attention(head_dim as u32).unwrap();
        let (m, n) = (tile.tile_m as usize, tile.tile_n as usize);
        for seqlen_q in [1, m - 1, m, m + 1] {
            for seqlen_k in [1, n - 1, n, n + 1, 2 * n - 1, 2 * n, 2 * n + 1] {
                cases.push((head_dim, seqlen_q, seqlen_k));
            }
        }
    }
    for_each(&cases, |device, &(head_dim, seqlen_q, seqlen_k)| {
        let shape = shape(1, 1, head_dim, seqlen_q, seqlen_k);
        let seed = (seqlen_q * 1000 + seqlen_k) as u64;
        for causal in [true, false] {
            let options = AttentionOptions { causal, ..Default::default() };
            let case = case!(seed, "{seqlen_q} x {seqlen_k} d {head_dim} causal {causal}");
            check::<f16>(device, &mut Rng::new(seed), &shape, &options, &case);
        }
    });
}

#[test]
fn past_lengths() {
    let cases: Vec<(usize, usize)> =
        [0, 1, 64, 128, 777].into_iter().flat_map(|past| [1, 40, 130].map(|q| (past, q))).collect();
    for_each(&cases, |device, &(past, seqlen_q)| {
        let shape = shape(2, 2, 64, seqlen_q, seqlen_q + past);
        let case = case!(past as u64, "{seqlen_q} queries after {past}");
        check::<bf16>(device, &mut Rng::new(past as u64), &shape, &AttentionOptions::default(), &case);
    });
}

#[test]
fn head_groups() {
    // MHA, GQA with groups of 2, 4, 8 and an odd one, MQA.
    let cases: Vec<(usize, usize, bool)> = [(2, 2), (4, 2), (4, 1), (8, 1), (16, 2), (6, 2), (5, 1)]
        .into_iter()
        .flat_map(|(heads, heads_k)| [false, true].map(|interleave| (heads, heads_k, interleave)))
        .collect();
    for_each(&cases, |device, &(heads, heads_k, gqa_interleave)| {
        let shape = shape(heads, heads_k, 64, 20, 33);
        let options = AttentionOptions { gqa_interleave, ..Default::default() };
        let case = case!(heads as u64, "{heads} heads on {heads_k}, interleaved {gqa_interleave}");
        check::<bf16>(device, &mut Rng::new(heads as u64), &shape, &options, &case);
    });
}

fn exact<T: Half>(device: &Device, seed: u64, head_dim: usize) {
    let mut rng = Rng::new(seed);
    let (seqlen_q, seqlen_k) = (rng.range(1..=150), rng.range(150..=260));
    let shape = shape(4, 2, head_dim, seqlen_q, seqlen_k);
    let past = seqlen_k - seqlen_q;
    let (q, k, chosen) = Tensor::<T>::one_hot(&mut rng, seqlen_q, seqlen_k, 4, 2, head_dim, |i| i + past + 1);
    let inputs = Inputs::of(q, k, Tensor::sparse_integers(&mut rng, seqlen_k, 2, head_dim));
    let case = case!(seed, "{shape:?} {:?}", T::DTYPE);
    // All weight on one key: a copy of its values.
    let want: Vec<T> = (0..seqlen_q)
        .flat_map(|i| (0..4).map(move |h| (i, h)))
        .flat_map(|(i, h)| inputs.v.view().row(chosen[i], h / 2).to_vec())
        .collect();
    let (out, _) = common::unwrap(inputs.dense(device, &shape, &AttentionOptions::default()), &case);
    testing::assert_bits(&out, &want, &case);
    // All weights alike: sums of small integers are exact, and the mean is one rounding away.
    let flat = AttentionOptions { softmax_scale: Some(0.0), causal: false, ..Default::default() };
    let (out, lse) = common::unwrap(inputs.dense(device, &shape, &flat), &case);
    for (at, x) in out.iter().enumerate() {
        let (h, d) = (at / head_dim % 4, at % head_dim);
        let sum: f64 = (0..seqlen_k).map(|j| inputs.v.view().row(j, h / 2)[d].to_f32() as f64).sum();
        let (want, got) = (sum / seqlen_k as f64, x.to_f32() as f64);
        // The quotient of an f32 reciprocal, rounded to `T`: half a unit in the last place, and the reciprocal's error.
        let (below, above) = (T::from_f64(want * (1.0 - 1e-6)), T::from_f64(want * (1.0 + 1e-6)));
        assert!(*x == below || *x == above, "{got} {want} {case}");
    }
    assert!(lse.iter().all(|x| (x - (seqlen_k as f32).ln()).abs() < 1e-5), "{case}");
    // A power of two passes through.
    let doubled = Tensor::<T>::from_fn(Layout::thd(seqlen_k, 2, head_dim), |t, h, d| {
        2.0 * inputs.v.view().row(t, h)[d].to_f32() as f64
    });
    let scaled = Inputs { v: doubled, ..inputs.clone() };
    let (twice, _) = common::unwrap(scaled.dense(device, &shape, &flat), &case);
    let want: Vec<f32> = out.iter().map(|x| 2.0 * x.to_f32()).collect();
    testing::assert_bits(&twice, &want, &case);
}

#[test]
fn one_hot_weights_and_small_integers_are_exact() {
    let cases: Vec<(u64, usize)> = testing::seeds(4).flat_map(|s| HEAD_DIMS.map(|d| (s, d))).collect();
    for_each(&cases, |device, &(seed, head_dim)| {
        exact::<bf16>(device, seed, head_dim);
        exact::<f16>(device, seed, head_dim);
    });
}

#[test]
fn rows_that_see_nothing_are_zero_and_unseen_poison_stays_unseen() {
    // Sequence 0: more queries than keys. 1: no keys. 2: no queries. 3: a past. 4: both empty.
    let seqlens = Seqlens::new(vec![0, 40, 47, 47, 87, 87], vec![0, 23, 23, 60, 140, 140]).unwrap();
    for_each(&HEAD_DIMS, |device, &head_dim| {
        let shape = AttentionShape::new(2, 1, head_dim, seqlens.clone()).unwrap();
        let mut inputs = Inputs::<bf16>::random(&mut Rng::new(1), &shape);
        let clean = inputs.clone();
        // Keys of the sequence without queries are seen by nobody, token 139 by the last row alone, and what lies behind
        // the keys of a sequence belongs to the next one.
        inputs.k.poison(23..60);
        inputs.v.poison(23..60);
        inputs.k.poison(139..140);
        inputs.v.poison(139..140);
        let case = case!(1, "{shape:?}");
        let options = AttentionOptions::default();
        let (out, lse) = common::unwrap(inputs.dense(device, &shape, &options), &case);
        let expected = clean.expect(&shape, &options, |_, _, _, _| true);
        let row = 2 * head_dim;
        let zero = |x: &bf16| x.to_f32() == 0.0;
        assert!(out[..17 * row].iter().all(zero) && out[40 * row..47 * row].iter().all(zero), "{case}");
        for h in 0..2 {
            let lse = &lse[h * 87..][..87];
            assert!(lse[..17].iter().chain(&lse[40..47]).all(|&x| x == f32::NEG_INFINITY), "{case}");
            assert!(lse[86].is_nan(), "{case}");
        }
        assert!(out[86 * row..].iter().all(|x| x.to_f32().is_nan()), "{case}");
        testing::assert_close(&out[..86 * row], &expected.want.out[..86 * row], expected.tolerance, &case);
    });
}

#[test]
fn what_is_not_finite_reaches_the_rows_that_see_it_and_no_other() {
    let cases: Vec<(u64, usize)> = testing::seeds(6).flat_map(|s| HEAD_DIMS.map(|d| (s, d))).collect();
    for_each(&cases, |device, &(seed, head_dim)| {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&limits(&[head_dim], 200));
        let options = AttentionOptions { causal: seed % 3 != 2, ..Default::default() };
        let mut inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let clean = inputs.expect(&shape, &options, |_, _, _, _| true);
        inputs.spoil(&mut rng, Spoil::BOTH[seed as usize % 2]);
        let expected = inputs.expect_spoilt(&clean, &shape, &options, |_, _, _, _| true);
        expected.assert(inputs.dense(device, &shape, &options), &case!(seed, "{shape:?} {options:?}"));
    });
}

#[test]
fn a_nan_query_stays_in_its_row() {
    on_every_device(|device| {
        let shape = shape(2, 1, 64, 70, 90);
        let clean = Inputs::<bf16>::random(&mut Rng::new(2), &shape);
        let mut inputs = clean.clone();
        inputs.q.poison(33..34);
        let (case, options) = (case!(2), AttentionOptions::default());
        let (out, lse) = common::unwrap(inputs.dense(device, &shape, &options), &case);
        let (want, want_lse) = common::unwrap(clean.dense(device, &shape, &options), &case);
        let bad = 33 * 2 * 64..34 * 2 * 64;
        assert!(out[bad.clone()].iter().all(|x| x.to_f32().is_nan()), "{case}");
        for h in 0..2 {
            assert!(lse[h * 70 + 33].is_nan(), "{case}");
            testing::assert_bits(&lse[h * 70..][..33], &want_lse[h * 70..][..33], &case);
        }
        testing::assert_bits(&out[..bad.start], &want[..bad.start], &case);
        testing::assert_bits(&out[bad.end..], &want[bad.end..], &case);
    });
}

#[test]
fn a_row_does_not_depend_on_the_batch_the_heads_or_the_strides() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&limits(&[*rng.clone().choose(&HEAD_DIMS)], 150));
        let options = random_options(&mut rng);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let case = case!(seed, "{shape:?} {options:?}");
        let all = common::unwrap(inputs.dense(device, &shape, &options), &case);
        for b in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            let head = rng.below(shape.num_heads);
            let head_k = shape.head_k(head, options.gqa_interleave);
            let alone = Inputs::of(
                inputs.q.tokens(q_range.clone()).heads(&[head]),
                inputs.k.tokens(k_range.clone()).heads(&[head_k]),
                inputs.v.tokens(k_range.clone()).heads(&[head_k]),
            );
            let seqlens = Seqlens::single(q_range.len(), k_range.len()).unwrap();
            let one = AttentionShape::new(1, 1, shape.head_dim, seqlens).unwrap();
            let got = common::unwrap(alone.dense(device, &one, &options), &case);
            let dim = shape.head_dim;
            let rows = q_range.clone().flat_map(|t| &all.0[(t * shape.num_heads + head) * dim..][..dim]);
            let want = (rows.copied().collect(), all.1[head * shape.seqlens.total_q()..][q_range].to_vec());
            assert_same(&got, &want, &case);
        }
    });
}

#[test]
fn every_layout_gives_the_same_bits() {
    on_every_device(|device| {
        let (tokens, heads, dim) = (70, 4, 64);
        let shape = shape(heads, heads, dim, tokens, tokens);
        let inputs = Inputs::<bf16>::random(&mut Rng::new(7), &shape);
        let options = AttentionOptions::default();
        let want = common::unwrap(inputs.dense(device, &shape, &options), &case!(7));
        // Offsets beyond 16 bits, and 32-bit ones of bytes within reach.
        let wide = Layout {
            token_stride: 1 << 14,
            head_stride: 256,
            batch_stride: tokens << 14,
            ..Layout::thd(tokens, heads, dim)
        };
        for layout in [Layout::thd(tokens, heads, dim), Layout::bhsd(1, heads, tokens, dim), wide] {
            let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|t| relayout(t, layout));
            let case = case!(7, "{layout:?}");
            let got = Inputs { q, k, v, out: layout }.dense(device, &shape, &options);
            assert_same(&common::unwrap(got, &case), &want, &case);
        }
    });
}

#[test]
fn the_raw_level_and_a_missing_lse_give_the_same_bits() {
    on_every_device(|device| {
        let shape = shape(2, 1, 128, 40, 77);
        let inputs = Inputs::<f16>::random(&mut Rng::new(4), &shape);
        let options = AttentionOptions::default();
        let plan = Plan::<f16>::new(&device.context, &shape, &options).unwrap();
        let want = common::unwrap(inputs.dense(device, &shape, &options), &case!(4));
        let own_stream = device.context.new_stream().unwrap();
        let raw = inputs.run(device, |_, q, k, v, out, lse| {
            // SAFETY: the tensors have the plan's shape and live until the stream is synchronised.
            unsafe { plan.run_raw(own_stream.raw(), q.raw(), k.raw(), v.raw(), out.raw(), lse.ptr()) }?;
            own_stream.synchronize()
        });
        assert_same(&common::unwrap(raw, &case!(4)), &want, &case!(4));
        let (out, lse) = common::unwrap(inputs.dense_without_lse(device, &shape, &options), &case!(4));
        testing::assert_bits(&out, &want.0, &case!(4));
        assert!(lse.iter().all(|x| x.is_nan()));
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let seeds: Vec<u64> = testing::seeds(6).collect();
    for_each(&seeds, |_, &seed| {
        let mut rng = Rng::new(seed);
        let shape = rng.shape(&limits(&[*rng.clone().choose(&HEAD_DIMS)], 200));
        let options = random_options(&mut rng);
        let inputs = Inputs::<bf16>::random(&mut rng, &shape);
        let run = |scheduler| {
            let (context, _) = common::emulator(Options { scheduler, ..Options::default() });
            let case = case!(seed, "{scheduler:?} {shape:?} {options:?}");
            common::unwrap(inputs.dense(&Device { context, margin: 0 }, &shape, &options), &case)
        };
        let want = run(Scheduler::RoundRobin);
        for scheduler in
            [Scheduler::Random(seed), Scheduler::Adversarial(seed), Scheduler::Adversarial(seed + 1)]
        {
            assert_same(&run(scheduler), &want, &case!(seed, "{scheduler:?} {shape:?}"));
        }
    });
}

#[test]
fn counters_state_the_design() {
    for head_dim in HEAD_DIMS {
        let kernel = kernel::dense_attention(kernel::Dtype::Bf16, head_dim as u32).unwrap();
        let (m, n) = (kernel.tile.tile_m as usize, kernel.tile.tile_n as usize);
        // Square, whole tiles.
        let tokens = 4 * m.max(n);
        let shape = shape(1, 1, head_dim, tokens, tokens);
        let totals = [false, true].map(|causal| {
            let (context, driver) = common::emulator(Options::default());
            let options = AttentionOptions { causal, ..Default::default() };
            let inputs = Inputs::<bf16>::random(&mut Rng::new(5), &shape);
            let device = Device { context, margin: 0 };
            common::unwrap(inputs.dense(&device, &shape, &options), &case!(5));
            let counters = driver.report(kernel.kernel.name).expect("a launch").counters;
            assert_eq!(counters.totals().local_bytes, 0, "d {head_dim}: spills or local arrays");
            assert_eq!(
                counters.opcode("ldmatrix").shared_conflict_factor(),
                1.0,
                "d {head_dim}: bank conflicts"
            );
            assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "d {head_dim}: generic accesses");
            let stored = counters.opcode("st.global").global_bytes;
            assert_eq!(stored, (tokens * (2 * head_dim + 4)) as u64, "d {head_dim}: each output once");
            counters.totals()
        });
        // Q K^T and P V are 2 x tokens^2 x head_dim multiply-adds. Causal computes the tiles up to the diagonal's end.
        let macs = 2 * (tokens * tokens * head_dim) as u64;
        assert_eq!(totals[0].macs, macs, "d {head_dim}");
        let tiles: usize = (0..tokens / m).map(|i| ((i + 1) * m).div_ceil(n)).sum();
        assert_eq!(totals[1].macs, 2 * (tiles * m * n * head_dim) as u64, "d {head_dim}");
        assert!(totals[1].macs * 8 <= macs * 5, "causal does {} of {macs}", totals[1].macs);
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let options = AttentionOptions::default();
        let shape = shape(4, 2, 64, 50, 90);
        let refuses = |why: Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("dense_attention: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let plan = Plan::<bf16>::new(context, &shape, &options).unwrap();
        for head_dim in [63, 96, 256] {
            let shape = AttentionShape { head_dim, ..shape.clone() };
            refuses(Plan::<bf16>::new(context, &shape, &options).unwrap_err(), &["head_dim", "64 or 128"]);
        }
        refuses(Plan::<f32>::new(context, &shape, &options).unwrap_err(), &["dtype", "bf16 or f16", "f32"]);
        for scale in [f32::NAN, f32::INFINITY, -2e8] {
            let options = AttentionOptions { softmax_scale: Some(scale), ..options };
            refuses(Plan::<bf16>::new(context, &shape, &options).unwrap_err(), &["softmax_scale"]);
        }
        let long = Seqlens::single(u32::MAX as usize, 1).unwrap();
        let long = AttentionShape { seqlens: long, ..shape.clone() };
        refuses(Plan::<bf16>::new(context, &long, &options).unwrap_err(), &["tiles", "65535"]);
        let long = AttentionShape { seqlens: Seqlens::single(1, 1 << 30).unwrap(), ..shape.clone() };
        refuses(
            Plan::<bf16>::new(context, &long, &options).unwrap_err(),
            &["tokens of a sequence", "1073741824"],
        );
        let wide = AttentionShape { num_heads: 1 << 20, num_heads_k: 1 << 20, ..shape.clone() };
        refuses(Plan::<bf16>::new(context, &wide, &options).unwrap_err(), &["num_heads_k", "65535"]);

        let tensor = |layout| DeviceTensor::<bf16>::uninit(context, layout, "tensor").unwrap();
        let (q, k) = (tensor(Layout::thd(50, 4, 64)), tensor(Layout::thd(90, 2, 64)));
        let short = tensor(Layout::thd(89, 2, 64));
        let odd = tensor(Layout { token_stride: 129, batch_stride: 90 * 129, ..Layout::thd(90, 2, 64) });
        let split = tensor(Layout::bhsd(2, 2, 45, 64));
        let mut out = tensor(Layout::thd(50, 4, 64));
        let mut lse = DeviceBuffer::<f32>::uninit(context, 199, "lse").unwrap();
        let stream = context.default_stream();
        for (q, k, v, what) in [
            (&k, &k, &k, ["q", "[50, 4, 64]"]),
            (&q, &short, &k, ["k", "[89, 2, 64]"]),
            (&q, &k, &short, ["v", "[89, 2, 64]"]),
            (&q, &k, &odd, ["v", "129 between tokens"]),
            (&q, &split, &k, ["k", "one step between all tokens"]),
        ] {
            let mut out = out.view_mut().unwrap();
            let got = plan.run(&stream, &q.view(), &k.view(), &v.view(), &mut out, None);
            refuses(got.unwrap_err(), &what);
        }
        let mut out = out.view_mut().unwrap();
        let got = plan.run(&stream, &q.view(), &k.view(), &k.view(), &mut out, Some(&mut lse));
        refuses(got.unwrap_err(), &["softmax_lse", "[4, 50]", "199"]);
        let tensor = |ptr| RawTensor::thd(DevicePtr(ptr), 4, 64);
        // SAFETY: refused before anything is launched.
        let got = unsafe {
            plan.run_raw(RawStream::DEFAULT, tensor(8), tensor(16), tensor(16), tensor(16), DevicePtr::NULL)
        };
        refuses(got.unwrap_err(), &["q", "16 bytes", "0x8"]);

        let (other, _) = common::emulator(Options::default());
        let foreign = DeviceTensor::<bf16>::uninit(&other, Layout::thd(90, 2, 64), "k").unwrap();
        let got = plan.run(&stream, &q.view(), &foreign.view(), &k.view(), &mut out, None);
        refuses(got.unwrap_err(), &["k", "of another"]);
        let got = plan.run(&other.default_stream(), &q.view(), &k.view(), &k.view(), &mut out, None);
        refuses(got.unwrap_err(), &["stream", "of another"]);
    });
}

#[test]
fn a_kernel_that_the_image_lacks_has_a_name() {
    let image = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let context = Context::emulated(&[image]).unwrap();
    let why = Plan::<bf16>::new(&context, &shape(1, 1, 64, 1, 1), &AttentionOptions::default()).unwrap_err();
    let kernel = "dense_attention_bf16_d64".to_owned();
    assert_eq!(why, Error::Device(DeviceError::KernelNotFound { kernel }));
}
