//! Column mass.

use half::{bf16, f16};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, options, parts_of, shape};
use crate::common::Half;
use crate::common::column_mass::Call;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match parts_of(kernel)? {
        ("column_mass", "bf16", head_dim, "") => Some(column_mass::<bf16>(head_dim)),
        ("column_mass", "f16", head_dim, "") => Some(column_mass::<f16>(head_dim)),
        _ => None,
    }
}

fn column_mass<T: Half>(head_dim: usize) -> Vec<Check> {
    let plain = options(true, None, false);
    let call = |seed, heads, heads_k, q, k, options| {
        Call::<T>::random(&mut Rng::new(seed), &shape(heads, heads_k, head_dim, &[(q, k)]), options)
    };
    let all = |call: Call<T>| {
        let (rows, keys) = (call.shape.seqlens.seqlen_q(0), call.shape.seqlens.seqlen_k(0));
        check(move |device| {
            call.check(device, 0, 0..rows, 0..keys, &case!(0));
        })
    };
    let mut checks = vec![
        all(call(1, 1, 1, 3, 5, plain)),
        all(call(2, 4, 2, 40, 150, options(true, Some(-0.1), true))),
        all(call(3, 6, 2, 21, 140, options(false, Some(0.2), false))),
        all(call(4, 2, 1, 60, 60, options(true, Some(0.0), false))),
        all(call(5, 8, 1, 30, 300, plain)),
        all(call(6, 1, 1, 90, 20, plain)),
        all(call(7, 2, 2, 170, 200, plain)),
    ];
    // Threads copy keys in up to sixteen rounds, rows in up to four: an end in each of them.
    for round in 0..16 {
        let keys = 8 * round + 3 + 128 * (round % 2);
        checks.push(all(call(20 + round as u64, 2, 2, 2 * round + 1, keys, plain).contiguous()));
    }
    let mut some = call(40, 2, 1, 80, 260, plain);
    some.lse[80 + 40..][..20].fill(f32::NEG_INFINITY);
    checks.push(check(move |device| {
        some.check(device, 0, 5..66, 20..250, &case!(0));
    }));
    // What nobody sees is not a number.
    let mut hidden = call(41, 2, 1, 90, 40, plain);
    hidden.q.poison(0..50);
    hidden.k.poison(10..40);
    let seen = hidden.clone();
    checks.push(check(move |device| {
        seen.check(device, 0, 0..60, 0..40, &case!(0));
    }));
    let ordered = || call(42, 4, 2, 50, 180, plain);
    checks.push(all(ordered()).under(Scheduler::Random(1)));
    checks.push(all(ordered()).under(Scheduler::Adversarial(2)));
    checks.push(all(call(43, 4, 2, 9, 130, plain)).storing(130 * 4));
    checks
}
