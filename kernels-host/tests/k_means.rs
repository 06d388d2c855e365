//! k-means against the reference.

mod common;

use common::device::emulator;
use common::k_means::{Found, assert_found, assert_settled, crowd, run, wanted};
use common::{Device, Half, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_core::{Error, KMeansMetric, KMeansOptions, Layout};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::k_means::Plan;
use lacuna_kernels_host::{DeviceBuffer, DeviceTensor, Graph};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, Tolerance, assert_close, seeds};

/// Points in rows with gaps.
fn layout(rng: &mut Rng, n: usize, features: usize) -> Layout {
    let token_stride = features + *rng.choose(&[0, 8, 64]);
    Layout { token_stride, batch_stride: n * token_stride, ..Layout::thd(n, 1, features) }
}

fn options(clusters: usize, metric: KMeansMetric, max_iterations: usize, seed: u64) -> KMeansOptions {
    KMeansOptions { clusters, metric, max_iterations, seed }
}

fn exact_points<T: Half>() {
    let seeds: Vec<u64> = seeds(60).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (n, features) = (rng.range(1..=150), *rng.choose(&[8, 16, 40, 64, 136]));
        let layout = layout(&mut rng, n, features);
        // Small integers: distances are exact, and ties of them frequent.
        let points = Tensor::<T>::from_fn(layout, |_, _, _| rng.below(7) as f64);
        let clusters = *rng.choose(&[1, 2, 7, 40, 70, 200]);
        let options = options(clusters, KMeansMetric::Euclidean, 1, seed);
        let case = case!(seed, "{n} x {features} {options:?}");
        let (want, got) = (wanted(&points, &options), run(device, &points, &options).unwrap());
        assert_found(&points, &options, &got, &want, &case);
    });
}

#[test]
fn equals_the_reference_on_points_without_close_calls_bf16() {
    exact_points::<bf16>();
}

#[test]
fn equals_the_reference_on_points_without_close_calls_f16() {
    exact_points::<f16>();
}

fn separated<T: Half>() {
    let seeds: Vec<u64> = seeds(24).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (clusters, features) = (rng.range(2..=20), 8 * rng.range(3..=20));
        let centers: Vec<f64> = (0..clusters * features).map(|_| 10.0 * rng.normal()).collect();
        let layout = layout(&mut rng, clusters * 8, features);
        let points =
            Tensor::<T>::from_fn(layout, |t, _, d| centers[t % clusters * features + d] + 0.5 * rng.normal());
        let metric = *rng.choose(&[KMeansMetric::Euclidean, KMeansMetric::Cosine]);
        let options = options(clusters, metric, 100, seed);
        let case = case!(seed, "{clusters} clusters, {features} features, {metric:?}");
        let (want, got) = (wanted(&points, &options), run(device, &points, &options).unwrap());
        assert_found(&points, &options, &got, &want, &case);
    });
}

#[test]
fn equals_the_reference_on_separated_clusters_bf16() {
    separated::<bf16>();
}

#[test]
fn equals_the_reference_on_separated_clusters_f16() {
    separated::<f16>();
}

#[test]
fn settles_where_every_point_has_its_nearest_centroid_and_every_centroid_is_a_mean() {
    let seeds: Vec<u64> = seeds(6).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let (n, features) = (rng.range(100..=300), *rng.choose(&[64, 256, 1032]));
        let points = crowd::<bf16>(&mut rng, n, features);
        let metric = *rng.choose(&[KMeansMetric::Euclidean, KMeansMetric::Cosine]);
        let options = options(20, metric, 100, seed);
        let got = run(device, &points, &options).unwrap();
        let case = case!(seed, "{n} x {features} {metric:?}");
        assert_settled(&points, &options, &got, &case);
    });
}

#[test]
fn rounds_after_the_one_that_settles_do_nothing() {
    let (context, driver) = emulator(Options::default());
    let device = Device { context, margin: 0 };
    let points = crowd::<bf16>(&mut Rng::new(5), 130, 64);
    let run_for = |rounds| {
        driver.clear_reports();
        let found = run(&device, &points, &options(9, KMeansMetric::Euclidean, rounds, 5)).unwrap();
        let counters = driver.report("k_means_bf16_assign").unwrap().counters;
        (found, counters.totals().mma)
    };
    let settled = run_for(50);
    assert_eq!(run_for(51), settled);
    // 3 tiles of points, 1 of centroids, 4 warps, a step of 64 features: 4 x 2 x 2 x 4 products.
    let per_round = 3 * 4 * 64;
    assert_eq!(settled.1 % per_round, 0);
    let rounds = settled.1 / per_round;
    assert!(rounds > 2 && rounds < 50, "{rounds}");
    // One round earlier nothing had settled yet, and the result may differ but for the last, which changes nothing.
    assert_eq!(run_for(rounds as usize - 1).0, settled.0);
    assert_ne!(run_for(rounds as usize - 2).0, settled.0);
}

#[test]
fn the_scheduler_does_not_matter() {
    let points = crowd::<bf16>(&mut Rng::new(11), 150, 72);
    // Equal points make empty clusters.
    let equal = Tensor::<bf16>::from_fn(Layout::thd(60, 1, 16), |t, _, _| (t / 30) as f64);
    let schedulers =
        [Scheduler::RoundRobin, Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)];
    let found: Vec<[Found; 2]> = schedulers
        .into_iter()
        .map(|scheduler| {
            let (context, _) = emulator(Options { scheduler, ..Options::default() });
            let device = Device { context, margin: 0 };
            [
                run(&device, &points, &options(70, KMeansMetric::Cosine, 3, 1)).unwrap(),
                run(&device, &equal, &options(9, KMeansMetric::Euclidean, 3, 1)).unwrap(),
            ]
        })
        .collect();
    assert!(found.iter().all(|f| f == &found[0]));
}

#[test]
fn equal_points_fill_every_cluster_and_few_points_stand_for_themselves() {
    on_every_device(|device| {
        for (n, distinct, clusters) in [(5, 1, 4), (5, 2, 4), (40, 3, 17), (70, 1, 66), (3, 3, 9), (1, 1, 1)]
        {
            let points =
                Tensor::<f16>::from_fn(Layout::thd(n, 1, 8), |t, _, d| (t % distinct * (d + 1)) as f64);
            for metric in [KMeansMetric::Euclidean, KMeansMetric::Cosine] {
                let options = options(clusters, metric, 10, 42);
                let (want, got) = (wanted(&points, &options), run(device, &points, &options).unwrap());
                let case = case!(0, "{n} {distinct} {options:?}");
                if metric == KMeansMetric::Euclidean {
                    assert_eq!(got.assignment, want.assignment, "{case}");
                    assert_eq!(got.representatives, want.representatives, "{case}");
                    assert_close(&got.centroids, &want.centroids, Tolerance::absolute(1e-6), &case);
                } else {
                    let mut clusters: Vec<u32> = got.assignment.clone();
                    clusters.sort_unstable();
                    clusters.dedup();
                    assert_eq!(clusters.len(), want.representatives.len(), "{case}");
                    assert_eq!(got.representatives.len(), want.representatives.len(), "{case}");
                }
            }
        }
    });
}

#[test]
fn empty_clusters_take_the_farthest_points() {
    for_each(&[8, 136, 1032, 2056], |device, &features| {
        // Where a point is no number, starts are the lowest points: here equal ones, whose clusters but one are empty.
        let mut rng = Rng::new(features as u64);
        let points = Tensor::<bf16>::from_fn(Layout::thd(50, 1, features), |t, _, d| {
            let x = rng.below(5) as f64;
            if t < 6 {
                (d % 3) as f64
            } else if (t, d) == (49, 5) {
                f64::NAN
            } else {
                x
            }
        });
        let options = options(8, KMeansMetric::Euclidean, 1, 3);
        let (want, got) = (wanted(&points, &options), run(device, &points, &options).unwrap());
        assert_eq!(got.assignment, want.assignment, "{features}");
        let mut alone: Vec<u32> = want.assignment.clone();
        alone.sort_unstable();
        alone.retain(|c| want.assignment.iter().filter(|&other| other == c).count() == 1);
        assert!(alone.len() >= 4, "no cluster was filled: {:?}", want.assignment);
    });
}

#[test]
fn cosine_ignores_length() {
    on_every_device(|device| {
        // Directions east and north; Euclid would part the long from the short. And one without direction.
        let points = [[100.0, 0.0], [1.0, 0.01], [0.0, 100.0], [0.01, 1.0], [0.0, 0.0]];
        let points =
            Tensor::<bf16>::from_fn(Layout::thd(5, 1, 8), |t, _, d| if d < 2 { points[t][d] } else { 0.0 });
        for seed in 0..8 {
            let options = options(2, KMeansMetric::Cosine, 100, seed);
            let Found { centroids, assignment: a, .. } = run(device, &points, &options).unwrap();
            assert!(a[0] == a[1] && a[2] == a[3] && a[0] != a[2] && a[4] < 2, "{seed}: {a:?}");
            assert!(centroids.iter().all(|&x| (0.0..=1.0).contains(&x)), "{centroids:?}");
        }
    });
}

#[test]
fn numbers_that_are_none_do_not_stop_it() {
    on_every_device(|device| {
        for bad in [f64::NAN, f64::INFINITY] {
            let points = Tensor::<bf16>::from_fn(Layout::thd(40, 1, 16), |t, _, d| match (t, d) {
                (7, 3) | (33, 0) => bad,
                _ => (t * t % 11 + d) as f64,
            });
            for metric in [KMeansMetric::Euclidean, KMeansMetric::Cosine] {
                let options = options(4, metric, 10, 3);
                let (want, got) = (wanted(&points, &options), run(device, &points, &options).unwrap());
                assert!(got.assignment.iter().all(|&c| c < 4));
                assert_eq!(got.representatives.len(), 4);
                assert_eq!(got.assignment, want.assignment, "{bad} {metric:?}");
            }
        }
    });
}

#[test]
fn graphs_replay_it_on_new_points() {
    on_every_device(|device| {
        let context = &device.context;
        let options = options(6, KMeansMetric::Euclidean, 20, 9);
        let (n, features) = (70, 24);
        let mut plan = Plan::<f16>::new(context, n, features, &options).unwrap();
        let layout = Layout::thd(n, 1, features);
        let mut points = DeviceTensor::<f16>::uninit(context, layout, "points").unwrap();
        let mut centroids = DeviceBuffer::uninit(context, 6 * features, "centroids").unwrap();
        let mut assignment = DeviceBuffer::uninit(context, n, "assignment").unwrap();
        let mut representatives = DeviceBuffer::uninit(context, 6, "representatives").unwrap();
        let stream = context.new_stream().unwrap();
        let graph = Graph::capture(&stream, |stream| {
            plan.run(stream, &points.view(), &mut centroids, &mut assignment, &mut representatives)
        })
        .unwrap();
        for seed in 0..3 {
            let mut rng = Rng::new(seed);
            let new = Tensor::<f16>::from_fn(layout, |_, _, _| rng.normal());
            let rows: Vec<f16> = (0..n).flat_map(|i| new.view().row(i, 0).to_vec()).collect();
            points.buffer_mut().copy_from_host(&stream, &rows).unwrap();
            // SAFETY: the plan and all buffers live.
            unsafe { graph.launch(&stream) }.unwrap();
            let replayed = Found {
                centroids: centroids.to_host(&stream).unwrap(),
                assignment: assignment.to_host(&stream).unwrap(),
                representatives: representatives.to_host(&stream).unwrap(),
            };
            assert!(replayed == run(device, &new, &options).unwrap());
        }
    });
}

#[test]
fn workspaces_are_of_the_order_of_points_and_centroids() {
    let context = Device::emulated().context;
    let (n, features, clusters) = (4096, 512, 256);
    let before = context.memory().unwrap().free;
    let plan = Plan::<bf16>::new(&context, n, features, &options(clusters, KMeansMetric::Cosine, 100, 0));
    let plan = plan.unwrap();
    assert_eq!(before - context.memory().unwrap().free, plan.workspace_bytes() as u64);
    assert!(plan.workspace_bytes() <= 24 * n + 4 * clusters * features + 32 * clusters);
    assert_eq!(plan.clusters(), clusters);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::emulated();
    let context = &device.context;
    let default = KMeansOptions::default();
    let plan = |n, features, options: &KMeansOptions| Plan::<bf16>::new(context, n, features, options);
    assert!(plan(0, 64, &default).unwrap_err().to_string().contains("points"));
    for features in [0, 4, 12] {
        let why = plan(10, features, &default).unwrap_err().to_string();
        assert!(why.contains("a positive multiple of 8 on a device"), "{why}");
    }
    for (n, features) in [(1 << 40, 64), (10, 1 << 40)] {
        assert!(matches!(plan(n, features, &default), Err(Error::TooLarge { .. })));
    }
    assert!(plan(10, 64, &KMeansOptions { clusters: 0, ..default }).is_err());
    let why = Plan::<f32>::new(context, 10, 64, &default).unwrap_err().to_string();
    assert!(why.contains("bf16 or f16 on a device"), "{why}");

    let mut plan = plan(10, 64, &KMeansOptions { clusters: 3, ..default }).unwrap();
    let stream = context.default_stream();
    let tensor =
        |n, heads, d| DeviceTensor::<bf16>::uninit(context, Layout::thd(n, heads, d), "points").unwrap();
    let list = |n| DeviceBuffer::<u32>::uninit(context, n, "list").unwrap();
    let floats = |n| DeviceBuffer::<f32>::uninit(context, n, "centroids").unwrap();
    let sizes = [
        ((9, 1, 64), 192, 10, 3),
        ((10, 2, 64), 192, 10, 3),
        ((10, 1, 72), 192, 10, 3),
        ((10, 1, 64), 191, 10, 3),
        ((10, 1, 64), 192, 11, 3),
        ((10, 1, 64), 192, 10, 2),
    ];
    for ((n, heads, d), centroids, assignment, representatives) in sizes {
        let points = tensor(n, heads, d);
        let why = plan
            .run(
                &stream,
                &points.view(),
                &mut floats(centroids),
                &mut list(assignment),
                &mut list(representatives),
            )
            .unwrap_err();
        assert!(matches!(why, Error::ShapeMismatch { .. }), "{why}");
    }
    let other = Device::emulated().context;
    let points = tensor(10, 1, 64);
    let why =
        plan.run(&other.default_stream(), &points.view(), &mut floats(192), &mut list(10), &mut list(3));
    assert!(why.unwrap_err().to_string().contains("of the plan's device"));
}
