//! The probe of the pattern searches.

use half::{bf16, f16};
use lacuna_core::{AttentionShape, Layout};
use lacuna_emulator::Scheduler;
use lacuna_kernels_gpu::tile_size::probe_chunk_keys;
use lacuna_kernels_host::probe::Options;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor};

use super::{Check, check, parts_of, shape};
use crate::common::Half;
use crate::common::probe::Call;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match parts_of(kernel)? {
        ("probe", "bf16", head_dim, _) => Some(probe::<bf16>(head_dim)),
        ("probe", "f16", head_dim, _) => Some(probe::<f16>(head_dim)),
        _ => None,
    }
}

/// Both passes.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let base = ["_lse", "_sums"].iter().find_map(|pass| kernel.strip_suffix(pass))?;
    base.starts_with("probe_").then(|| vec![format!("{base}_lse"), format!("{base}_sums")])
}

fn probe<T: Half>(head_dim: usize) -> Vec<Check> {
    let chunk = probe_chunk_keys(1);
    let options =
        |last_q, softmax_scale| Options { last_q, softmax_scale, gqa_interleave: false, round: false };
    let call = |seed, shape: AttentionShape, options| Call::<T>::random(&mut Rng::new(seed), &shape, options);
    let one = |q, k| shape(1, 1, head_dim, &[(q, k)]);
    let checked = |call: Call<T>| {
        check(move |device| {
            call.check(device, &case!(0));
        })
    };
    let mut checks = vec![
        checked(call(1, one(3, 5), options(2, None))),
        checked(call(2, shape(4, 2, head_dim, &[(37, 90), (0, 25), (20, 0), (70, 50)]), options(64, None))),
        checked(call(3, one(128, 160), options(128, Some(-0.1)))),
        checked(call(4, one(33, chunk + 40), options(33, Some(0.5)))),
        checked(call(5, one(128, chunk + 200), options(128, None))),
        checked(call(6, one(100, 100), options(100, Some(0.0)))),
        checked(call(11, one(31, 31), options(31, None)).contiguous()),
        checked(Call {
            options: Options { gqa_interleave: true, ..options(50, None) },
            ..call(7, shape(4, 2, head_dim, &[(60, 70)]), options(50, None))
        }),
    ];
    // Threads copy queries and keys in up to sixteen rounds: an end in each of them, and in every warp's rows.
    for round in 0..16 {
        let (rows, keys) = (8 * round + 3, 64 + 4 * round + 1);
        let options = options(rows as usize, None);
        checks.push(checked(call(20 + u64::from(round), one(rows, keys), options).contiguous()));
    }
    let rounded = |seed, softmax_scale| {
        let mut rng = Rng::new(seed);
        // Few and small: exact until they are rounded.
        let mut tensor = |tokens| {
            Tensor::<T>::from_fn(Layout::thd(tokens, 1, head_dim), |token, _, d| {
                if d % 8 == token % 8 { (rng.below(15) as f64 - 7.0) * 0.5 } else { 0.0 }
            })
        };
        let (q, k) = (tensor(130), tensor(150));
        let options = Options { round: true, ..options(128, softmax_scale) };
        checked(Call { shape: one(130, 150), q, k, options })
    };
    checks.extend([rounded(40, None), rounded(41, Some(0.3)), rounded(42, Some(-0.7))]);
    // Without queries: zeros.
    checks.push(checked(call(12, one(0, 130), options(64, None))).storing(2 * 130 * 4));
    let ordered = || call(8, one(70, 200), options(64, None));
    checks.push(checked(ordered()).under(Scheduler::Random(1)));
    checks.push(checked(ordered()).under(Scheduler::Adversarial(2)));
    // Maxima and sums of three warps with rows, then both sums of every key.
    let stored = 96 * 8 + 2 * 150 * 4;
    checks.push(checked(call(9, one(90, 150), options(90, None))).storing(stored));
    // More chunks than are loaded at a time.
    let long = call(10, one(5, 9 * chunk + 40), options(5, None));
    checks.push(checked(long));
    checks
}
