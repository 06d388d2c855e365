//! A compact acceptance set for each kernel: what a mutant has to get past. Inputs and expected results are made once.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, Seqlens};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, assert_bits};

use crate::common::attention::{Expected, Spoil};
use crate::common::decode::{Call, Sizes};
use crate::common::merge::Parts;
use crate::common::{Device, Half, Inputs, random_mask, sees};

/// One call with its expected result. Panics when the result is wrong.
pub struct Check {
    /// The order of execution.
    pub scheduler: Scheduler,
    /// Bytes that all launches of the call store: each output once.
    pub stored_bytes: Option<u64>,
    pub run: Box<dyn Fn(&Device) + Send + Sync>,
}

fn check(run: impl Fn(&Device) + Send + Sync + 'static) -> Check {
    Check { scheduler: Scheduler::RoundRobin, stored_bytes: None, run: Box::new(run) }
}

impl Check {
    fn under(self, scheduler: Scheduler) -> Self {
        Self { scheduler, ..self }
    }

    fn storing(self, bytes: usize) -> Self {
        Self { stored_bytes: Some(bytes as u64), ..self }
    }
}

/// The checks of a kernel; `None` for a name that says no stem, type and head dim.
pub fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let dtype = ["bf16", "f16", "f32"].into_iter().find(|dtype| kernel.contains(&format!("_{dtype}_d")))?;
    let stem = &kernel[..kernel.find(&format!("_{dtype}_d"))?];
    let rest = kernel.split(&format!("_{dtype}_d")).nth(1)?;
    let (head_dim, variant) = rest.split_once('_').unwrap_or((rest, ""));
    let head_dim = head_dim.parse().ok()?;
    Some(match (stem, dtype, variant) {
        ("dense_attention", "bf16", "") => dense::<bf16>(head_dim),
        ("dense_attention", "f16", "") => dense::<f16>(head_dim),
        ("block_sparse_attention", "bf16", _) => block_sparse::<bf16>(head_dim, variant == "64x64"),
        ("block_sparse_attention", "f16", _) => block_sparse::<f16>(head_dim, variant == "64x64"),
        ("decode_attention", "bf16", _) => decode::<bf16>(head_dim, variant == "64_rows"),
        ("decode_attention", "f16", _) => decode::<f16>(head_dim, variant == "64_rows"),
        ("merge_state", "bf16", "") => merge::<bf16, bf16>(head_dim),
        ("merge_state", "f16", "") => merge::<f16, f16>(head_dim),
        ("merge_state", "f32", "") => merge::<f32, f32>(head_dim),
        ("merge_state", "bf16", "f32_parts") => merge::<f32, bf16>(head_dim),
        ("merge_state", "f16", "f32_parts") => merge::<f32, f16>(head_dim),
        _ => return None,
    })
}

/// The kernels that a stem's launcher needs side by side.
pub fn companions(kernel: &str) -> Vec<String> {
    for variant in ["_16_rows", "_64_rows", "_merge"] {
        if let Some(base) = kernel.strip_suffix(variant) {
            return ["_16_rows", "_64_rows", "_merge"].map(|variant| format!("{base}{variant}")).into();
        }
    }
    vec![kernel.to_owned()]
}

/// One sequence, or a ragged batch: (queries, keys) of each.
fn shape(heads: usize, heads_k: usize, head_dim: usize, lengths: &[(u32, u32)]) -> AttentionShape {
    let sums = |of: fn(&(u32, u32)) -> u32| {
        let sum = lengths.iter().scan(0, |sum, pair| {
            *sum += of(pair);
            Some(*sum)
        });
        std::iter::once(0).chain(sum).collect()
    };
    let seqlens = Seqlens::new(sums(|pair| pair.0), sums(|pair| pair.1)).expect("ascending from 0");
    AttentionShape::new(heads, heads_k, head_dim, seqlens).expect("heads in range")
}

fn options(causal: bool, softmax_scale: Option<f32>, gqa_interleave: bool) -> AttentionOptions {
    AttentionOptions { causal, softmax_scale, gqa_interleave }
}

/// Lengths, heads and options that reach every branch of an attention kernel: edges of tiles, empty sequences, rows that
/// see nothing, several tiles of keys, head groups, the causal edge at every distance from a fragment's.
fn attention_cases(head_dim: usize, m: u32, n: u32) -> Vec<(AttentionShape, AttentionOptions)> {
    let plain = options(true, None, false);
    let one = |q, k| shape(1, 1, head_dim, &[(q, k)]);
    let mut cases = vec![
        (one(3, 5), plain),
        (shape(2, 1, head_dim, &[(37, 90), (0, 25), (20, 0), (70, 50)]), plain),
        (one(m, m), plain),
        (one(m + 1, n + 1), options(false, Some(-0.1), false)),
        (shape(4, 2, head_dim, &[(9, 2 * n + 1)]), options(true, Some(0.5), true)),
        (one(40, 3 * n + 5), options(false, None, false)),
        (one(m - 1, n), options(true, Some(0.0), false)),
        (one(m + 30, 3 * n - 1), plain),
    ];
    // Threads copy and store a tile in up to sixteen rounds: an end in each of them.
    for round in 0..16 {
        let (q, k) = (round * m / 16 + 3, round % 8 * n / 8 + 3);
        cases.push((one(q, k), options(round % 2 == 0, None, false)));
    }
    for past in [8, 16, 24, n] {
        cases.push((one(m, m + past), plain));
    }
    cases
}

/// Past lengths, and what is not finite at each: keys hidden from some rows in every place of a tile.
fn spoils(n: u32) -> [(u32, Spoil); 6] {
    let [every, some] = Spoil::BOTH;
    [(0, every), (0, every), (0, some), (n, every), (n, some), (17, every)]
}

fn dense<T: Half>(head_dim: usize) -> Vec<Check> {
    let tile =
        lacuna_kernels_gpu::tile_size::dense_attention(head_dim as u32).expect("a head dim with a tile");
    let (m, n) = (tile.tile_m, tile.tile_n);
    let call = |seed, shape: AttentionShape, options, spoil: Option<Spoil>| {
        let mut rng = Rng::new(seed);
        let mut inputs = Inputs::<T>::random(&mut rng, &shape);
        let mut expected = inputs.expect(&shape, &options, |_, _, _, _| true);
        if let Some(spoil) = spoil {
            inputs.spoil(&mut rng, spoil);
            expected = inputs.expect_spoilt(&expected, &shape, &options, |_, _, _, _| true);
        }
        poison_unseen(&mut inputs, &shape);
        (inputs, expected, shape, options)
    };
    let checked = |(inputs, expected, shape, options): (Inputs<T>, Expected, _, _)| {
        check(move |device| {
            expected.assert(inputs.dense(device, &shape, &options), &case!(0));
        })
    };
    let plain = options(true, None, false);
    let cases = attention_cases(head_dim, m, n);
    let mut checks: Vec<Check> =
        (0..).zip(cases).map(|(seed, (shape, options))| checked(call(seed, shape, options, None))).collect();
    let one = |q, k| shape(1, 1, head_dim, &[(q, k)]);
    for (seed, (past, spoil)) in (30..).zip(spoils(n)) {
        checks.push(checked(call(seed, one(m, m + past), plain, Some(spoil))));
    }
    checks.push(checked(call(37, one(40, 2 * n + 9), options(false, None, false), Some(Spoil::EveryValue))));
    checks.push(checked(call(40, one(m, 3 * n), plain, None)).under(Scheduler::Random(1)));
    checks.push(checked(call(40, one(m, 3 * n), plain, None)).under(Scheduler::Adversarial(2)));
    checks.push(checked(call(41, one(77, 60), plain, None)).storing(77 * (2 * head_dim + 4)));
    let (inputs, expected, shape, options) = call(42, one(20, 30), plain, None);
    checks.push(check(move |device| {
        let out = inputs.dense_without_lse(device, &shape, &options).map(|(out, _)| out);
        expected.assert_out(out, &case!(0));
    }));
    checks
}

/// NaN in the keys and values of sequences without queries.
fn poison_unseen<T: Half>(inputs: &mut Inputs<T>, shape: &AttentionShape) {
    for b in (0..shape.seqlens.batch()).filter(|&b| shape.seqlens.seqlen_q(b) == 0) {
        inputs.k.poison(shape.seqlens.k_range(b));
        inputs.v.poison(shape.seqlens.k_range(b));
    }
}

fn block_sparse<T: Half>(head_dim: usize, small: bool) -> Vec<Check> {
    let tile = lacuna_kernels_gpu::tile_size::block_sparse_attention(head_dim as u32, small)
        .expect("a head dim with a tile");
    let (m, n) = (tile.tile_m, tile.tile_n);
    // Blocks of one tile, and of several tiles, whose kernel is the same.
    let blocks = [(m as usize, n as usize), (m as usize * if small { 3 } else { 2 }, n as usize * 3)];
    let checked = |seed: u64, density, shape: AttentionShape, options, spoil: Option<Spoil>| {
        let (block_m, block_n) = blocks[seed as usize % 2];
        let mut rng = Rng::new(seed);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, density);
        let mut inputs = Inputs::<T>::random(&mut rng, &shape);
        let mut expected = inputs.expect(&shape, &options, sees(&mask));
        if let Some(spoil) = spoil {
            inputs.spoil(&mut rng, spoil);
            expected = inputs.expect_spoilt(&expected, &shape, &options, sees(&mask));
        }
        poison_unseen(&mut inputs, &shape);
        check(move |device| {
            expected.assert(inputs.block_sparse(device, &shape, &options, &mask), &case!(0));
        })
    };
    let plain = options(true, None, false);
    let mut cases = attention_cases(head_dim, m, n);
    cases.push((shape(2, 1, head_dim, &[(2 * m + 9, 4 * n + 3)]), plain));
    let mut checks: Vec<Check> = (0..)
        .zip(cases)
        .map(|(seed, (shape, options))| checked(seed, [1.0, 0.7][seed as usize % 2], shape, options, None))
        .collect();
    let one = |q, k| shape(1, 1, head_dim, &[(q, k)]);
    for (seed, (past, spoil)) in (30..).zip(spoils(n)) {
        checks.push(checked(seed, 0.9, one(m, m + past), plain, Some(spoil)));
    }
    checks.push(checked(37, 0.8, one(40, 4 * n + 9), options(false, None, false), Some(Spoil::EveryValue)));
    checks.push(checked(40, 0.8, one(m, 4 * n), plain, None).under(Scheduler::Random(1)));
    checks.push(checked(40, 0.8, one(m, 4 * n), plain, None).under(Scheduler::Adversarial(2)));
    // Long lists, most of whose blocks need no mask.
    checks.push(checked(38, 0.7, one(30, 12 * n), plain, None));
    checks.push(checked(41, 1.0, one(50, 60), plain, None).storing(50 * (2 * head_dim + 4)));
    checks
}

fn decode<T: Half>(head_dim: usize, tall: bool) -> Vec<Check> {
    let call = |seed, seqlen_q, heads, heads_k, capacity, lens: &[u32], options| {
        let sizes = Sizes { seqlen_q, heads, heads_k, head_dim, capacity };
        Call::<T>::random(&mut Rng::new(seed), sizes, lens, options)
    };
    let plain = options(true, None, false);
    let calls = if tall {
        vec![
            call(1, 1, 17, 1, 70, &[66], plain),
            call(2, 5, 16, 2, 140, &[130, 0, 3], options(true, Some(-0.1), true)),
            call(3, 9, 16, 1, 300, &[299], options(false, Some(0.5), false)),
            call(4, 16, 4, 1, 270, &[257, 64], plain),
            call(5, 64, 1, 1, 64, &[64], plain),
            call(6, 50, 1, 1, 130, &[129, 40], plain),
            call(8, 40, 4, 1, 300, &[258, 300], plain),
            call(9, 16, 4, 1, 70, &[66], options(true, Some(-0.5), false)),
        ]
    } else {
        vec![
            call(1, 1, 1, 1, 8, &[5], plain),
            call(2, 2, 4, 2, 140, &[130, 0, 1], options(true, Some(-0.1), true)),
            call(3, 4, 4, 1, 300, &[299], options(false, Some(0.5), false)),
            call(4, 1, 16, 1, 600, &[257, 600], plain),
            call(5, 3, 3, 1, 70, &[64, 63], options(true, Some(0.0), false)),
            call(6, 16, 1, 1, 64, &[64, 9], plain),
        ]
    };
    let checked = |call: Call<T>| {
        let expected = call.expect();
        check(move |device| {
            expected.assert(call.run(device), &case!(0));
        })
    };
    let mut checks: Vec<Check> = calls.into_iter().map(checked).collect();
    let rows = if tall { 20 } else { 4 };
    // An end in every round of copies, in the first tile of keys and in the second.
    for round in 0..8 {
        let len = 8 * round + 3 + 64 * (round % 2);
        checks.push(checked(call(20 + u64::from(round), 1, rows, 1, len as usize, &[len], plain)));
    }
    // What is not finite, hidden from some rows, in every place of a tile.
    let seqlen_q = if tall { 40 } else { 16 };
    for (seed, len) in (30..).zip([16, 32, 48, 64, 72, 84, 96, 120, 150]) {
        let clean = call(seed, seqlen_q, 1, 1, len as usize, &[len], plain);
        let tolerance = clean.expect().tolerance;
        let mut spoilt = clean;
        spoilt.spoil(&mut Rng::new(seed), Spoil::BOTH[usize::from(len == 150)]);
        let expected = Expected { tolerance, ..spoilt.expect() };
        checks.push(check(move |device| {
            expected.assert(spoilt.run(device), &case!(0));
        }));
    }
    let ordered = || call(7, 1, rows, 1, 260, &[260], plain);
    checks.push(checked(ordered()).under(Scheduler::Random(1)));
    checks.push(checked(ordered()).under(Scheduler::Adversarial(2)));
    // Two splits of one sequence and one of the other, then the outputs.
    for heads in if tall { [17, 20, 33, 41, 50, 63] } else { [1, 4, 7, 9, 13, 15] } {
        let stored = 3 * heads * 4 * (head_dim + 1) + 2 * heads * (2 * head_dim + 4);
        let call = call(50 + heads as u64, 1, heads, 1, 260, &[260, 10], plain).with_contiguous_queries();
        checks.push(checked(call).storing(stored));
    }
    let (silent, expected) = (ordered(), ordered().expect());
    checks.push(check(move |device| {
        let out = silent
            .plan(device, 260)
            .and_then(|mut plan| silent.run_asking(device, &mut plan, false))
            .map(|(out, _)| out);
        expected.assert_out(out, &case!(0));
    }));
    // More splits than a warp has lanes, the last of which decides; and where splits grow. Long, hence last.
    let many = call(8, 1, 1, 1, 33 * 256 + 5, &[33 * 256 + 5], plain);
    checks.push(checked(many.decided_by_keys_from(33 * 256)));
    checks.push(checked(call(9, 1, 1, 1, 0x4001, &[0x4001], plain)));
    checks
}

fn merge<P: Half, T: Half>(head_dim: usize) -> Vec<Check> {
    let parts =
        |seed, parts, tokens, heads| Parts::<P>::random(&mut Rng::new(seed), parts, tokens, heads, head_dim);
    let checked = |parts: Parts<P>| {
        check(move |device| {
            parts.check::<T>(device, &case!(0));
        })
    };
    let sizes = [(5, 7, 3), (1, 2, 1), (0, 2, 1), (2, 9, 2), (33, 1, 1)];
    let mut checks: Vec<Check> =
        (0..).zip(sizes).map(|(seed, (n, tokens, heads))| checked(parts(seed, n, tokens, heads))).collect();
    // The part that decides comes behind those of the first 32 lanes.
    let mut late = parts(6, 70, 2, 1);
    late.lse.iter_mut().for_each(|lse| *lse = lse.min(0.0));
    late.lse[69 * 2] = 200.0;
    late.lse[40 * 2 + 1] = 200.0;
    checks.push(checked(late));
    let stored = 7 * 3 * (head_dim * size_of::<T>() + 4);
    checks.push(checked(parts(7, 2, 7, 3)).storing(stored));
    let silent = parts(8, 2, 5, 1);
    checks.push(check(move |device| {
        let (out, lse) = silent.run_without_lse::<T>(device).expect("a merge");
        let want = silent.run::<T>(device).expect("a merge");
        assert!(lse.iter().all(|x| x.is_nan()), "worst at the LSE: it was not asked for");
        assert_bits(&out, &want.0, &case!(0));
    }));
    checks
}
