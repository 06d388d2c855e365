//! A random token of a distribution.

use std::f32::consts::LOG2_E;

use lacuna_emulator::Scheduler;
use lacuna_kernels_host::sample::Options;
use lacuna_reference::testing::Rng;

use super::{Check, check};
use crate::common::argmax::{matrix, random_logits};
use crate::common::sample::{by_rule, draw_after};

const KERNELS: [&str; 4] = ["argmax", "sample_histogram", "sample_cut", "sample_draw"];

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    KERNELS[1..].contains(&kernel).then(checks)
}

pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    KERNELS[1..].contains(&kernel).then(|| KERNELS.map(str::to_owned).into())
}

fn checks() -> Vec<Check> {
    let mut rng = Rng::new(1);
    let all = Options { temperature: 0.9, ..Options::default() };
    let mut normal = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.normal() * 2.0) as f32).collect() };
    let (small, large) = (normal(97), normal(9000));
    let close: Vec<f32> = normal(9000).iter().map(|x| x * 1e-5).collect();
    let few: Vec<f32> = large.iter().map(|x| (x * 0.4).round()).collect();
    let mut spoilt = few.clone();
    spoilt[4711] = f32::NAN;
    let pair = vec![large.clone(), few.clone()];
    let mut rng = Rng::new(2);
    let mixed: Vec<Vec<f32>> = (0..9).map(|_| random_logits(&mut rng, 40)).collect();
    vec![
        draws(vec![small.clone()], all, 0),
        draws(pair.clone(), Options { min_p: 0.2, ..all }, 3),
        draws(pair.clone(), Options { top_k: 300, ..all }, 0),
        draws(pair.clone(), Options { top_p: 0.7, ..all }, 0),
        draws(pair, Options { top_k: 300, top_p: 0.8, min_p: 0.01, ..all }, 1)
            .under(Scheduler::Adversarial(2)),
        // More survivors than a list has room for.
        draws(vec![close.clone()], Options { top_k: 8500, top_p: 0.97, ..all }, 0),
        draws(vec![close], Options { top_p: 0.95, ..all }, 0),
        draws(vec![few.clone()], Options { top_k: 8900, temperature: 50.0, ..all }, 0),
        draws(vec![vec![0.5; 40_000]], Options { top_k: 35_000, ..all }, 0),
        // Weights of powers of two: shares that are had exactly.
        draws(vec![vec![-1.0, 0.0, -1.0]], Options { temperature: LOG2_E, top_p: 0.5, ..all }, 0),
        draws(vec![vec![-1.0, 0.0, -1.0]], Options { temperature: LOG2_E, min_p: 0.5, ..all }, 0),
        draws(vec![large], Options { top_p: 0.9999, ..all }, 0),
        draws(vec![spoilt, few], Options { top_k: 9, ..all }, 0),
        // The share of a sum has no bit of its lower half, and none at all.
        draws(vec![small.clone()], Options { top_p: 1e-14, ..all }, 0),
        draws(vec![small], Options { top_p: 1e-35, ..all }, 0),
        draws(mixed, Options { top_k: 7, top_p: 0.9, ..all }, 0),
    ]
}

fn draws(rows: Vec<Vec<f32>>, options: Options, gap: usize) -> Check {
    let uniforms = [0.0, 0.13, 0.5, 0.77, 1f32.next_down(), 1e-14, 1e-35];
    let logits = matrix(&rows, gap);
    // What a run leaves behind is not to be found by the next.
    let reversed: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().rev().copied().collect()).collect();
    let reversed = matrix(&reversed, gap);
    let cases: Vec<(Vec<f32>, Vec<u32>)> = (0..uniforms.len())
        .map(|at| {
            let of_row = |row: usize| uniforms[(at + row) % uniforms.len()];
            let uniform: Vec<f32> = (0..rows.len()).map(of_row).collect();
            let want = rows.iter().zip(&uniform).map(|(row, &u)| by_rule(row, &options, u)).collect();
            (uniform, want)
        })
        .collect();
    check(move |device| {
        for (at, (uniform, want)) in cases.iter().enumerate() {
            let first = (at == 0).then_some(&reversed);
            assert_eq!(draw_after(device, first, &logits, &options, uniform).expect("a draw"), *want);
        }
    })
}
