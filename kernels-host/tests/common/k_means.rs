//! k-means, run and compared.

use lacuna_core::{Error, KMeansMetric, KMeansOptions, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::k_means::Plan;
use lacuna_reference::KMeans;
use lacuna_reference::testing::{Case, Rng, Tensor, Tolerance, assert_close, nans};

use super::Device;
use super::tensor::{Half, OnDevice};

/// What the device found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub centroids: Vec<f32>,
    pub assignment: Vec<u32>,
    pub representatives: Vec<u32>,
}

/// k-means on the device.
pub fn run<T: Half>(device: &Device, points: &Tensor<T>, options: &KMeansOptions) -> Result<Found, Error> {
    let context = &device.context;
    let [n, _, features] = points.view().shape();
    let mut plan = Plan::<T>::new(context, n, features, options)?;
    let points = OnDevice::copy(device, &points.view(), "points");
    let mut centroids =
        DeviceBuffer::from_host(context, &nans::<f32>(plan.clusters() * features), "centroids")?;
    let mut assignment = DeviceBuffer::from_host(context, &vec![u32::MAX; n], "assignment")?;
    let mut representatives =
        DeviceBuffer::from_host(context, &vec![u32::MAX; plan.clusters()], "representatives")?;
    let stream = context.default_stream();
    plan.run(&stream, &points.view(), &mut centroids, &mut assignment, &mut representatives)?;
    Ok(Found {
        centroids: centroids.to_host(&stream)?,
        assignment: assignment.to_host(&stream)?,
        representatives: representatives.to_host(&stream)?,
    })
}

/// k-means by the reference.
pub fn wanted<T: Half>(points: &Tensor<T>, options: &KMeansOptions) -> KMeans {
    lacuna_reference::k_means(&points.view(), options).unwrap()
}

/// Panics unless the device found what the reference did. Members that are as near to their mean, but for rounding, may
/// stand for their cluster alike.
#[track_caller]
pub fn assert_found<T: Half>(
    points: &Tensor<T>,
    options: &KMeansOptions,
    got: &Found,
    want: &KMeans,
    case: &Case,
) {
    assert_eq!(got.assignment, want.assignment, "{case}");
    assert_close(&got.centroids, &want.centroids, Tolerance::absolute(2e-5), case);
    let [_, _, features] = points.view().shape();
    let cost = |point: u32| -> f64 {
        let row: Vec<f64> = points.view().row(point as usize, 0).iter().map(|x| x.to_f32() as f64).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mean = &want.centroids[want.assignment[point as usize] as usize * features..][..features];
        match options.metric {
            KMeansMetric::Euclidean => row.iter().zip(mean).map(|(x, c)| (x - c) * (x - c)).sum(),
            KMeansMetric::Cosine if norm == 0.0 => 0.0,
            KMeansMetric::Cosine => -row.iter().zip(mean).map(|(x, c)| x / norm * c).sum::<f64>(),
        }
    };
    let by_cluster = |points: &[u32]| -> Vec<f64> {
        let mut costs = vec![f64::NAN; want.representatives.len()];
        points.iter().for_each(|&p| costs[want.assignment[p as usize] as usize] = cost(p));
        costs
    };
    assert!(
        got.representatives.is_sorted() && got.representatives.len() == want.representatives.len(),
        "{case}"
    );
    let (want, got) = (by_cluster(&want.representatives), by_cluster(&got.representatives));
    assert_close(&got, &want, Tolerance::absolute(1e-4), case);
}

/// Points around a random mean far from the origin, as hidden states have one: distances are small beside the points'
/// lengths, and means need more bits than 16.
pub fn crowd<T: Half>(rng: &mut Rng, n: usize, features: usize) -> Tensor<T> {
    let mean: Vec<f64> = (0..features).map(|_| 4.0 * rng.normal()).collect();
    let token_stride = features + *rng.choose(&[0, 8, 64]);
    let layout = Layout { token_stride, batch_stride: n * token_stride, ..Layout::thd(n, 1, features) };
    Tensor::from_fn(layout, |_, _, d| mean[d] + rng.normal())
}

/// Panics unless every point has its nearest centroid, every centroid is the mean of its members, and representatives are
/// ascending, one per cluster.
#[track_caller]
pub fn assert_settled<T: Half>(points: &Tensor<T>, options: &KMeansOptions, got: &Found, case: &Case) {
    let [n, _, features] = points.view().shape();
    let clusters = got.representatives.len();
    let rows: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let row: Vec<f64> = points.view().row(i, 0).iter().map(|x| x.to_f32() as f64).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let divisor = if options.metric == KMeansMetric::Cosine { norm } else { 1.0 };
            row.into_iter().map(|x| x / divisor).collect()
        })
        .collect();
    let centroids: Vec<Vec<f64>> =
        got.centroids.chunks(features).map(|c| c.iter().map(|&x| x as f64).collect()).collect();
    let mut means = vec![vec![0.0; features]; clusters];
    let mut counts = vec![0.0; clusters];
    for (row, &cluster) in rows.iter().zip(&got.assignment) {
        means[cluster as usize].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        counts[cluster as usize] += 1.0;
        let distance = |c: &Vec<f64>| row.iter().zip(c).map(|(x, c)| (x - c) * (x - c)).sum::<f64>();
        let least = centroids.iter().map(distance).fold(f64::INFINITY, f64::min);
        let own = distance(&centroids[cluster as usize]);
        assert!(own <= least * (1.0 + 1e-5), "{own} {least} {case}");
    }
    let means: Vec<f64> = means.iter().zip(counts).flat_map(|(m, n)| m.iter().map(move |x| x / n)).collect();
    assert_close(&got.centroids, &means, Tolerance::absolute(1e-5), case);
    let chosen: Vec<u32> = got.representatives.iter().map(|&p| got.assignment[p as usize]).collect();
    let every = (0..clusters as u32).all(|cluster| chosen.contains(&cluster));
    assert!(every && got.representatives.is_sorted(), "worst at the representatives: {case}");
}
