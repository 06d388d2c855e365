//! The largest entries of rows.

use lacuna_emulator::Scheduler;
use lacuna_kernels_host::top_k::TokenTopK;
use lacuna_reference::testing::Rng;

use super::{Check, check, shape};
use crate::common::top_k::{expected, expected_tokens, random_scores, select, select_tokens};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match kernel {
        "top_k" => Some(rows()),
        "top_k_tokens" => Some(tokens()),
        _ => None,
    }
}

/// Rows in which the cut falls at the first, the second and the last digit of the scores, and among ties.
fn rows_of(rng: &mut Rng, n: usize) -> Vec<Vec<f32>> {
    let mut of = |make: &mut dyn FnMut(&mut Rng) -> f32| (0..n).map(|_| make(rng)).collect::<Vec<f32>>();
    vec![
        of(&mut |rng| (rng.normal() * 3.0).exp() as f32),
        of(&mut |rng| f32::from_bits(0x3f80_0000 + rng.below(1 << 20) as u32)),
        of(&mut |rng| -f32::from_bits(0x3f80_0000 + rng.below(900) as u32)),
        of(&mut |rng| rng.below(3) as f32 - 1.0),
        of(&mut |rng| *rng.choose(&[f32::NAN, -0.0, 0.0, f32::INFINITY, f32::NEG_INFINITY])),
    ]
}

fn rows() -> Vec<Check> {
    let mut rng = Rng::new(1);
    let mut checks = Vec::new();
    for (n, k) in [(5, 9), (40, 7), (700, 300), (4500, 1111)] {
        let rows = rows_of(&mut rng, n);
        for forced in [false, true] {
            let forced: Option<Vec<bool>> = forced.then(|| (0..n).map(|_| rng.chance(0.05)).collect());
            let want: Vec<Vec<u32>> = rows.iter().map(|row| expected(row, k, forced.as_deref())).collect();
            let stored = want.iter().map(|list| 4 * list.len()).sum();
            let scores = rows.concat();
            checks.push(
                check(move |device| {
                    let got = select(device, want.len(), &scores, k, forced.as_deref()).expect("a selection");
                    assert_eq!(got, want);
                })
                .storing(stored),
            );
        }
    }
    let last = checks.pop().map(|check| check.under(Scheduler::Adversarial(2)));
    checks.extend(last);
    checks
}

fn tokens() -> Vec<Check> {
    let mut rng = Rng::new(2);
    let mut checks = Vec::new();
    for (lens, k, forced, descending) in [
        (&[(1, 700), (3, 0), (9, 40), (0, 2)][..], 100, 30, true),
        (&[(1, 4500)], 900, 0, false),
        (&[(1, 90)], 50, 70, true),
    ] {
        let shape = shape(2, 1, 64, lens);
        let options = TokenTopK { k, forced, descending };
        let rows: Vec<Vec<f32>> = lens
            .iter()
            .flat_map(|&(_, len)| [len; 2])
            .map(|len| random_scores(&mut rng, len as usize))
            .collect();
        let want: Vec<Vec<u32>> = rows.iter().map(|row| expected_tokens(row, options)).collect();
        let stored = want.iter().map(|list| 4 * (list.len() + 1)).sum();
        let scores = rows.concat();
        checks.push(
            check(move |device| {
                assert_eq!(select_tokens(device, &shape, &scores, options).expect("a selection"), want);
            })
            .storing(stored),
        );
    }
    // In which every digit decides.
    for row in rows_of(&mut rng, 600) {
        let options = TokenTopK { k: 211, forced: 3, descending: false };
        let (shape, want) = (shape(1, 1, 64, &[(1, 600)]), vec![expected_tokens(&row, options)]);
        checks.push(check(move |device| {
            assert_eq!(select_tokens(device, &shape, &row, options).expect("a selection"), want);
        }));
    }
    checks
}
