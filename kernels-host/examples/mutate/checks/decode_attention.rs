//! Decode attention and the merge of its splits.

use half::{bf16, f16};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, options, parts_of};
use crate::common::Half;
use crate::common::attention::{Expected, Spoil};
use crate::common::decode::{Call, Sizes};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match parts_of(kernel)? {
        ("decode_attention", "bf16", head_dim, variant) => {
            Some(decode::<bf16>(head_dim, variant == "64_rows"))
        }
        ("decode_attention", "f16", head_dim, variant) => Some(decode::<f16>(head_dim, variant == "64_rows")),
        _ => None,
    }
}

/// The kernels of either tile height, and the merge.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let variants = ["_16_rows", "_64_rows", "_merge"];
    let base = variants.iter().find_map(|variant| kernel.strip_suffix(variant))?;
    Some(variants.map(|variant| format!("{base}{variant}")).into())
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
