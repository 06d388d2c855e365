//! Block selection by coverage.

use lacuna_core::{Threshold, XAttentionCompat, XAttentionOptions};
use lacuna_emulator::Scheduler;
use lacuna_reference::testing::Rng;
use lacuna_reference::{block_select, case};

use super::{Check, check, shape};
use crate::common::block_select::Scores;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match kernel {
        "block_select_warp" => Some(checks(false)),
        "block_select_cta" => Some(checks(true)),
        _ => None,
    }
}

/// Blocks of 16 tokens; `long` adds a sequence of more blocks than a warp holds.
fn checks(long: bool) -> Vec<Check> {
    let options = |thresholds: [f32; 2]| XAttentionOptions {
        threshold: Threshold::PerHead(thresholds.to_vec()),
        block_size: 16,
        chunk_size: Some(64),
        ..Default::default()
    };
    let original = XAttentionCompat::ORIGINAL;
    let quirk = XAttentionCompat { first_chunk_quirk: true, ..Default::default() };
    let row_bug = XAttentionCompat { keep_sink_row_bug: true, ..Default::default() };
    let aligned = XAttentionCompat { chunk_align_past: true, ..Default::default() };
    let keeping =
        |options: XAttentionOptions| XAttentionOptions { keep_sink: true, keep_recent: true, ..options };
    let with = |compat, options: XAttentionOptions| XAttentionOptions { compat, ..options };
    let cases = [
        (&[(100, 100), (0, 50), (70, 30), (33, 330)][..], true, options([0.6, 0.9])),
        (&[(40, 170), (50, 0)], false, keeping(options([0.3, 1.0]))),
        (&[(200, 200), (100, 130)], true, with(quirk, options([0.5, 0.7]))),
        (&[(150, 150), (100, 230), (90, 20)], true, keeping(with(original, options([0.4, 0.8])))),
        (&[(60, 200)], false, keeping(with(original, options([0.0, 0.5])))),
        (&[(50, 300)], false, XAttentionOptions { keep_sink: true, ..options([0.1, 0.3]) }),
        (
            &[(50, 50), (40, 100)],
            true,
            XAttentionOptions { keep_sink: true, ..with(row_bug, options([0.1, 0.3])) },
        ),
        (&[(50, 50), (40, 100)], true, with(aligned, options([0.1, 0.3]))),
        // The rule's own chunk, and rows of several words.
        (
            &[(3000, 3000)],
            true,
            XAttentionOptions { chunk_size: None, ..with(original, options([0.8, 0.9])) },
        ),
        (&[(16, 15_000)], true, options([0.7, 0.97])),
        (&[(16, 15_000)], false, options([1e-14, 0.999])),
    ];
    let mut rng = Rng::new(7);
    let mut checks = Vec::new();
    {
        // The accounting that lags needs rows without a past: as many as the longest has blocks.
        let lengths: &[(u32, u32)] = if long { &[(4_900, 4_900), (1, 16_400)] } else { &[(16_200, 16_200)] };
        let shape = shape(1, 1, 64, lengths);
        let options = XAttentionOptions {
            threshold: Threshold::Scalar(0.6),
            chunk_size: Some(1 << 14),
            ..with(quirk, options([0.0; 2]))
        };
        let scores = Scores::from_fn(&shape, &options, true, |_, _, _, _| rng.below(1000) as f32);
        let want = block_select(&shape, &scores.reference, &options, true).expect("scores of the shape");
        checks.push(check(move |device| {
            assert_eq!(scores.select(device, &shape, &options, true).expect("a selection"), want);
        }));
    }
    for (lengths, causal, options) in cases {
        let mut lengths = lengths.to_vec();
        if long {
            lengths.retain(|&(q_len, _)| q_len < 3000);
            lengths.push((20, 20_000));
        }
        let shape = shape(2, 1, 64, &lengths);
        for kind in 0..5 {
            let scores = Scores::from_fn(&shape, &options, causal, |_, _, _, _| match kind {
                // Sums are exact, whatever the order.
                0 => rng.below(6) as f32,
                // Neighbours in every bit.
                1 => f32::from_bits(0x3f80_0000 + rng.below(3) as u32),
                // Sums of less than 32 bits.
                2 => rng.below(40) as f32 / (1 << 14) as f32,
                3 => *rng.choose(&[f32::NAN, -1.0, -0.0, f32::NEG_INFINITY, 0.0, 0.5, 0.25, 3.0]),
                _ => 1.0,
            });
            let want =
                block_select(&shape, &scores.reference, &options, causal).expect("scores of the shape");
            let (shape, options) = (shape.clone(), options.clone());
            let words = lengths.iter().map(|l| (l.1 as usize).div_ceil(16)).max().unwrap_or(0).div_ceil(32);
            let stored = want.num_rows() * (words + 1) * 4;
            checks.push(
                check(move |device| {
                    let got = scores.select(device, &shape, &options, causal).expect("a selection");
                    assert_eq!(got, want, "{}", case!(7, "{kind} {options:?}"));
                })
                .storing(stored),
            );
        }
    }
    let last = checks.pop().map(|check| check.under(Scheduler::Adversarial(2)));
    checks.extend(last);
    checks
}
