//! Merging states.

use half::{bf16, f16};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, assert_bits};

use super::{Check, check, parts_of};
use crate::common::Half;
use crate::common::merge::Parts;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let ("merge_state", dtype, head_dim, variant) = parts_of(kernel)? else { return None };
    Some(match (dtype, variant) {
        ("bf16", "") => merge::<bf16, bf16>(head_dim),
        ("f16", "") => merge::<f16, f16>(head_dim),
        ("f32", "") => merge::<f32, f32>(head_dim),
        ("bf16", "f32_parts") => merge::<f32, bf16>(head_dim),
        ("f16", "f32_parts") => merge::<f32, f16>(head_dim),
        _ => return None,
    })
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
