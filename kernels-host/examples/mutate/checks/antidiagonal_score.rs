//! Anti-diagonal scores.

use half::{bf16, f16};
use lacuna_core::{XAttentionCompat, XAttentionOptions};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, shape};
use crate::common::Half;
use crate::common::scores::Call;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let (dtype, groups) = kernel.strip_prefix("antidiagonal_score_")?.split_once("_g")?;
    // Strides and blocks of that many groups.
    let sizes: &[(usize, usize)] = match groups {
        "4" => &[(16, 64)],
        "8" => &[(16, 128), (8, 64)],
        "16" => &[(8, 128), (4, 64)],
        "32" => &[(4, 128)],
        _ => return None,
    };
    match dtype {
        "bf16" => Some(score::<bf16>(sizes)),
        "f16" => Some(score::<f16>(sizes)),
        _ => None,
    }
}

fn score<T: Half>(sizes: &[(usize, usize)]) -> Vec<Check> {
    let checked = |seed, shape, options, causal| {
        let call = Call::<T>::random(&mut Rng::new(seed), shape, options, causal);
        let want = call.expect();
        check(move |device| {
            call.check(device, &want, &case!(0));
        })
    };
    let (stride, block_size) = sizes[0];
    let plain = XAttentionOptions { stride, block_size, ..Default::default() };
    // A ragged batch with every kind of past, heads interleaved, both means of the last groups.
    let ragged = [(100, 231), (0, 40), (70, 13), (257, 257), (33, 0)];
    let turned = XAttentionOptions { softmax_scale: Some(-0.3), gqa_interleave: true, ..plain.clone() };
    let of_original = XAttentionOptions {
        chunk_size: Some(128),
        norm: 2.0,
        compat: XAttentionCompat::ORIGINAL,
        ..plain.clone()
    };
    let unit = stride as u32;
    let (len, keys) = (150 * unit + 3, 600 * unit + 5);
    let groups = 128 * unit;
    let edges = [(20, 29), (50, 68), (70, 107), (100, 154), (30, 190), (33, 200), (9, 250), (40, 60)]
        .map(|(queries, keys)| (queries * unit - 1, keys * unit - 1));
    let scores = (groups as usize / block_size) * (groups as usize / block_size);
    let stored = 4 * (128 * 4 * (1 + 64 * stride / block_size) + scores);
    let mut checks = vec![
        checked(1, shape(4, 2, 64, &ragged), turned, true),
        checked(2, shape(2, 1, 128, &ragged), of_original.clone(), true),
        checked(3, shape(2, 2, 64, &ragged), of_original, false),
        // Tiles of queries, and tiles of keys that all rows see.
        checked(4, shape(1, 1, 64, &[(len, keys)]), plain.clone(), true),
        checked(5, shape(1, 1, 64, &[(groups, groups)]), plain.clone(), false).storing(stored),
        // The diagonal through every column of a strip, and a short last group in every part of a copy.
        checked(9, shape(1, 1, 64, &edges), plain.clone(), true),
        // CTAs take several tiles.
        checked(6, shape(112, 2, 64, &[(70, 70)]), plain, true),
    ];
    for &(stride, block_size) in &sizes[1..] {
        let options = XAttentionOptions { stride, block_size, ..Default::default() };
        checks.push(checked(7, shape(2, 1, 128, &[(300, 411)]), options, true));
    }
    let options = XAttentionOptions { stride, block_size, ..Default::default() };
    let last = checked(8, shape(2, 1, 64, &[(130, 300)]), options, true);
    checks.push(last.under(Scheduler::Adversarial(3)));
    checks
}
