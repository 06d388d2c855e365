//! k-means.

use half::{bf16, f16};
use lacuna_core::{KMeansMetric, KMeansOptions, Layout};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor};

use super::{Check, check};
use crate::common::Half;
use crate::common::k_means::{assert_found, assert_settled, crowd, run, wanted};

const STEPS: [&str; 6] = ["prepare", "seed", "update", "assign", "fill", "represent"];

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let (dtype, step) = kernel.strip_prefix("k_means_")?.split_once('_')?;
    match (STEPS.contains(&step), dtype) {
        (true, "bf16") => Some(checks::<bf16>(step)),
        (true, "f16") => Some(checks::<f16>(step)),
        _ => None,
    }
}

/// All steps of the type.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let (dtype, _) = kernel.strip_prefix("k_means_")?.split_once('_')?;
    Some(STEPS.map(|step| format!("k_means_{dtype}_{step}")).into())
}

fn checks<T: Half>(step: &str) -> Vec<Check> {
    use KMeansMetric::{Cosine, Euclidean};
    let mut checks = vec![
        // Small integers: distances are exact, ties frequent, and so are empty clusters in the fourth.
        integers::<T>(1, [150, 72], 70, Euclidean, 7),
        integers::<T>(2, [40, 8], 5, Euclidean, 5).under(Scheduler::Adversarial(2)),
        integers::<T>(3, [17, 1032], 3, Euclidean, 7),
        integers::<T>(4, [60, 16], 50, Euclidean, 2),
        // Without length there is no direction.
        integers::<T>(5, [1, 8], 1, Cosine, 1),
        separated::<T>(7, 40, Euclidean),
        separated::<T>(8, 40, Cosine).under(Scheduler::Random(3)),
        separated::<T>(11, 1320, Cosine),
        not_finite::<T>(),
        filled::<T>(),
    ];
    match step {
        // More points than one segment, and more tiles of them than threads.
        "seed" | "update" | "represent" => checks.push(integers::<T>(6, [4300, 8], 3, Euclidean, 7)),
        "assign" => checks.push(settled::<T>(9)),
        _ => {}
    }
    checks
}

fn compared<T: Half>(points: Tensor<T>, options: KMeansOptions) -> Check {
    let want = wanted(&points, &options);
    check(move |device| {
        let got = run(device, &points, &options).expect("clusters");
        assert_found(&points, &options, &got, &want, &case!(0));
    })
}

fn integers<T: Half>(
    seed: u64,
    [n, features]: [usize; 2],
    clusters: usize,
    metric: KMeansMetric,
    values: usize,
) -> Check {
    let mut rng = Rng::new(seed);
    let token_stride = features + 8;
    let layout = Layout { token_stride, batch_stride: n * token_stride, ..Layout::thd(n, 1, features) };
    // With two values, points are one of two.
    let points =
        Tensor::<T>::from_fn(
            layout,
            |t, _, _| {
                if values == 2 { (t % 2) as f64 } else { rng.below(values) as f64 }
            },
        );
    compared(
        points,
        KMeansOptions { clusters, metric, max_iterations: if values == 2 { 4 } else { 1 }, seed },
    )
}

/// Clusters that a few rounds find.
fn separated<T: Half>(seed: u64, features: usize, metric: KMeansMetric) -> Check {
    let mut rng = Rng::new(seed);
    let clusters = 5;
    let centers: Vec<f64> = (0..clusters * features).map(|_| 10.0 * rng.normal()).collect();
    let points = Tensor::<T>::from_fn(Layout::thd(40, 1, features), |t, _, d| {
        centers[t % clusters * features + d] + 0.5 * rng.normal()
    });
    compared(points, KMeansOptions { clusters, metric, max_iterations: 9, seed })
}

/// Until nothing changes, with means that need the second of their parts.
fn settled<T: Half>(seed: u64) -> Check {
    let points = crowd::<T>(&mut Rng::new(seed), 1100, 72);
    let options = KMeansOptions { clusters: 66, max_iterations: 40, seed, ..KMeansOptions::default() };
    check(move |device| {
        let got = run(device, &points, &options).expect("clusters");
        assert_settled(&points, &options, &got, &case!(0));
    })
}

/// Where a point is no number, starts are the lowest points: here equal ones, whose clusters but the first are empty.
fn filled<T: Half>() -> Check {
    let mut rng = Rng::new(10);
    let points = Tensor::<T>::from_fn(Layout::thd(40, 1, 1320), |t, _, d| {
        let x = rng.below(5) as f64;
        if t < 4 {
            (d % 3) as f64
        } else if (t, d) == (39, 5) {
            f64::NAN
        } else {
            x
        }
    });
    let options = KMeansOptions { clusters: 6, max_iterations: 1, seed: 10, ..KMeansOptions::default() };
    let want = wanted(&points, &options);
    check(move |device| {
        let got = run(device, &points, &options).expect("clusters");
        assert_eq!(got.assignment, want.assignment, "worst at the assignment");
    })
}

/// Points that are no numbers: all but the assignment is undefined.
fn not_finite<T: Half>() -> Check {
    let points = Tensor::<T>::from_fn(Layout::thd(40, 1, 16), |t, _, d| match (t, d) {
        (7, 3) => f64::NAN,
        (33, 0) => f64::INFINITY,
        _ => (t * t % 11 + d) as f64,
    });
    let options = KMeansOptions { clusters: 4, max_iterations: 5, seed: 3, ..KMeansOptions::default() };
    let want = wanted(&points, &options);
    check(move |device| {
        let got = run(device, &points, &options).expect("clusters");
        assert_eq!(got.assignment, want.assignment, "worst at the assignment");
    })
}
