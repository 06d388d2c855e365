//! k-means against the reference.

use half::bf16;
use lacuna_core::{KMeansMetric, KMeansOptions, Layout, TensorView};
use lacuna_kernels_cpu::k_means::k_means;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, Tolerance, assert_close, seeds};

#[test]
fn equals_the_reference_on_points_without_close_calls() {
    let mut iterations = 0;
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let (n, features) = (rng.range(1..=300), *rng.choose(&[1, 3, 16, 40, 300]));
        // Small integers: distances are exact, and ties of them frequent.
        let points = Tensor::<f32>::from_fn(Layout::thd(n, 1, features), |_, _, _| rng.below(7) as f64);
        let options = KMeansOptions {
            clusters: *rng.choose(&[1, 2, 7, 40, 400]),
            metric: KMeansMetric::Euclidean,
            max_iterations: 1,
            seed,
        };
        let case = case!(seed, "{n} x {features} {options:?}");
        let want = lacuna_reference::k_means(&points.view(), &options).unwrap();
        for isa in Isa::available() {
            let got = isa.scope(|| k_means(&points.view(), &options).unwrap());
            assert_eq!(got.assignment, want.assignment, "{isa:?} {case}");
            assert_close(&got.centroids, &want.centroids, Tolerance::absolute(1e-6), &case);
            iterations += 1;
        }
    }
    assert!(iterations > 0);
}

#[test]
fn equals_the_reference_on_separated_clusters() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let (clusters, features) = (rng.range(2..=90), rng.range(20..=70));
        let centers: Vec<f64> = (0..clusters * features).map(|_| 10.0 * rng.normal()).collect();
        let points = Tensor::<bf16>::from_fn(Layout::thd(clusters * 8, 1, features), |t, _, d| {
            centers[t % clusters * features + d] + 0.5 * rng.normal()
        });
        for metric in [KMeansMetric::Euclidean, KMeansMetric::Cosine] {
            let options = KMeansOptions { clusters, metric, seed, ..Default::default() };
            let case = case!(seed, "{clusters} clusters, {features} features, {metric:?}");
            let want = lacuna_reference::k_means(&points.view(), &options).unwrap();
            let got = k_means(&points.view(), &options).unwrap();
            assert_eq!(got.assignment, want.assignment, "{case}");
            // The two members of a pair are equally near to their mean.
            let cost = |point: u32| -> f64 {
                let row: Vec<f64> = points.view().row(point as usize, 0).iter().map(|x| x.to_f64()).collect();
                let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                let mean = &want.centroids[want.assignment[point as usize] as usize * features..][..features];
                match metric {
                    KMeansMetric::Euclidean => row.iter().zip(mean).map(|(x, c)| (x - c) * (x - c)).sum(),
                    KMeansMetric::Cosine => -row.iter().zip(mean).map(|(x, c)| x / norm * c).sum::<f64>(),
                }
            };
            let by_cluster = |points: &[u32]| -> Vec<f64> {
                let mut costs = vec![f64::NAN; clusters];
                points.iter().for_each(|&p| costs[want.assignment[p as usize] as usize] = cost(p));
                costs
            };
            let want_costs = by_cluster(&want.representatives);
            assert_close(&by_cluster(&got.representatives), &want_costs, Tolerance::absolute(1e-4), &case);
            assert_close(&got.centroids, &want.centroids, Tolerance::absolute(1e-4), &case);
        }
    }
}

#[test]
fn does_not_depend_on_threads() {
    let points = Tensor::<f32>::random(&mut Rng::new(1), 500, 1, 33);
    let options = KMeansOptions { clusters: 50, ..Default::default() };
    let found = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| k_means(&points.view(), &options).unwrap())
    });
    assert!(found[0] == found[1] && found[0] == found[2]);
    assert_eq!(found[0].representatives.len(), 50);
}

#[test]
fn equal_points_fill_every_cluster_and_few_points_stand_for_themselves() {
    let ones = [1.0f32; 10];
    let options = KMeansOptions { clusters: 4, ..Default::default() };
    let found = k_means(&TensorView::thd(&ones, 5, 1, 2).unwrap(), &options).unwrap();
    let want = lacuna_reference::k_means(&TensorView::thd(&ones, 5, 1, 2).unwrap(), &options).unwrap();
    assert_eq!((found.assignment, found.representatives), (want.assignment, want.representatives));
    let options = KMeansOptions { clusters: 9, ..Default::default() };
    let points = [0.0f32, 1.0, 5.0];
    let found = k_means(&TensorView::thd(&points, 3, 1, 1).unwrap(), &options).unwrap();
    assert_eq!(found.representatives, [0, 1, 2]);
}

#[test]
fn nan_does_not_stop_it_and_no_points_are_refused() {
    let points = [0.0f32, f32::NAN, 1.0, f32::INFINITY];
    let options = KMeansOptions { clusters: 2, ..Default::default() };
    assert_eq!(k_means(&TensorView::thd(&points, 4, 1, 1).unwrap(), &options).unwrap().assignment.len(), 4);
    assert!(k_means(&TensorView::thd(&points, 0, 1, 1).unwrap(), &options).is_err());
    assert!(k_means(&TensorView::thd(&points, 2, 2, 1).unwrap(), &options).is_err());
    assert!(k_means(&TensorView::thd(&points, 4, 1, 0).unwrap(), &options).is_ok());
}
