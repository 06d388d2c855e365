//! FlexPrefill's pattern search.

use half::{bf16, f16};
use lacuna_core::{AttentionShape, BlockMask, FlexPrefillCompat, FlexPrefillOptions};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, parts_of, shape};
use crate::common::Half;
use crate::common::flex_prefill::Search;

/// Kernels that take no element type, and those that every type and head dim has of its own.
const TYPELESS: [&str; 3] = ["flex_prefill_coverage", "flex_prefill_cut", "flex_prefill_rows"];

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    if TYPELESS.contains(&kernel) {
        let mut checks = checks::<bf16>(64);
        // More entries of a map than a CTA looks at in a round, the last of them small.
        let nearly_all = options(|o| (o.gamma, o.tau, o.softmax_scale) = (0.99, 1.0, Some(20.0)));
        checks.push(searched::<bf16>(20, &shape(1, 1, 64, &[(6000, 6100)]), &nearly_all, 1.0));
        return Some(checks);
    }
    let ("flex_prefill", dtype, head_dim, _) = parts_of(kernel)? else { return None };
    Some(if dtype == "bf16" { checks::<bf16>(head_dim) } else { checks::<f16>(head_dim) })
}

/// All kernels of a search, of the kernel's type and head dim or of any.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let of = match parts_of(kernel) {
        Some(("flex_prefill", dtype, head_dim, _)) => format!("{dtype}_d{head_dim}"),
        _ if TYPELESS.contains(&kernel) => "bf16_d64".to_owned(),
        _ => return None,
    };
    let typed = [("probe", "_lse"), ("probe", "_sums"), ("block_pool", "")];
    let typed = typed.into_iter().chain([("flex_prefill", "_decide"), ("flex_prefill", "_map")]);
    let lists = ["block_mask_scan", "block_mask_fill"];
    Some(
        typed
            .map(|(stem, variant)| format!("{stem}_{of}{variant}"))
            .chain(TYPELESS.into_iter().chain(lists).map(str::to_owned))
            .collect(),
    )
}

fn options(change: impl Fn(&mut FlexPrefillOptions)) -> FlexPrefillOptions {
    let mut options =
        FlexPrefillOptions { block_size: 64, min_budget: 0, tau: 0.3, gamma: 0.7, ..Default::default() };
    change(&mut options);
    options
}

fn searched<T: Half>(
    seed: u64,
    shape: &AttentionShape,
    options: &FlexPrefillOptions,
    strength: f64,
) -> Check {
    compared(seed, Search::<T>::spiky(&mut Rng::new(seed), shape, options, strength))
}

fn compared<T: Half>(seed: u64, search: Search<T>) -> Check {
    let expected = search.expect();
    check(move |device| {
        let found = search.found(device, &case!(seed));
        expected.assert(&found, &case!(seed));
    })
}

/// Scores that are not numbers cover nothing, however many there are: everything is kept.
fn not_finite<T: Half>(shape: &AttentionShape, options: &FlexPrefillOptions) -> Check {
    let mut search = Search::<T>::spiky(&mut Rng::new(18), shape, options, 1.0);
    search.k.poison(0..1);
    let all = BlockMask::dense(shape, options.block_size, options.block_size, true).expect("a mask");
    check(move |device| {
        let (mask, heads) = search.found(device, &case!(18));
        assert!(heads.iter().all(|h| h.sqrt_jsd.is_nan() && !h.query_aware), "worst at a head: {heads:?}");
        assert!(mask == all, "worst at the mask: {mask:?}");
    })
}

fn checks<T: Half>(head_dim: usize) -> Vec<Check> {
    let of = |heads, lengths: &[(u32, u32)]| shape(heads, 1, head_dim, lengths);
    let query_aware = options(|o| o.tau = 1.0);
    let small_share = |gamma| options(|o| (o.gamma, o.tau) = (gamma, 1.0));
    let without_rounding = FlexPrefillCompat { probe_round: false, ..FlexPrefillCompat::ORIGINAL };
    // Rounding, of numbers that are exact before.
    let rounding = options(|o| {
        (o.tau, o.softmax_scale) = (1.0, Some(0.125));
        o.compat.probe_round = true;
    });
    let exact = Search::<T>::integers(&mut Rng::new(14), &of(1, &[(2048, 6144)]), &rounding);
    vec![
        searched::<T>(1, &of(2, &[(200, 260), (0, 9), (40, 40)]), &options(|_| ()), 0.0),
        searched::<T>(2, &of(2, &[(200, 260)]), &options(|_| ()), 3.0),
        searched::<T>(3, &of(1, &[(300, 300)]), &options(|o| o.compat = without_rounding), 1.0),
        searched::<T>(4, &of(1, &[(17, 400)]), &options(|o| (o.tau, o.qa_only) = (1.0, true)), 1.0),
        searched::<T>(
            5,
            &shape(4, 2, head_dim, &[(150, 333), (40, 300)]),
            &options(|o| (o.block_size, o.gqa_interleave) = (128, true)),
            2.0,
        ),
        searched::<T>(
            7,
            &of(1, &[(130, 400)]),
            &options(|o| (o.max_budget, o.min_budget) = (Some(128), 70)),
            0.5,
        ),
        searched::<T>(8, &of(1, &[(64, 700)]), &small_share(0.999_999_94), 3.0)
            .under(Scheduler::Adversarial(1)),
        searched::<T>(11, &of(1, &[(20, 200)]), &small_share(1e-15), 1.0),
        searched::<T>(12, &of(1, &[(20, 200)]), &small_share(1e-35), 1.0),
        searched::<T>(13, &of(1, &[(20, 200)]), &small_share(1e-40), 1.0),
        // A share that sums of this precision may or may not reach.
        searched::<T>(16, &of(2, &[(200, 1000)]), &small_share(0.999_999_94), 1.0),
        searched::<T>(17, &of(2, &[(700, 700)]), &small_share(0.999_999_94), 5.0),
        not_finite::<T>(&of(2, &[(100, 300)]), &query_aware),
        compared(14, exact),
        // More than one CTA of the map, and more blocks than a warp looks at.
        searched::<T>(6, &of(1, &[(2100, 2300)]), &query_aware, 1.0),
        searched::<T>(10, &of(1, &[(20, 10_000)]), &query_aware, 1.0),
    ]
}
