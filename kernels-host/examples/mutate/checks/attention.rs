//! Dense and block-sparse attention.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, options, parts_of, shape};
use crate::common::attention::{Expected, Spoil};
use crate::common::{Half, Inputs, random_mask, sees};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let (stem, dtype, head_dim, variant) = parts_of(kernel)?;
    Some(match (stem, dtype) {
        ("dense_attention", "bf16") => dense::<bf16>(head_dim),
        ("dense_attention", "f16") => dense::<f16>(head_dim),
        ("block_sparse_attention", "bf16") => block_sparse::<bf16>(head_dim, variant == "64x64"),
        ("block_sparse_attention", "f16") => block_sparse::<f16>(head_dim, variant == "64x64"),
        _ => return None,
    })
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
