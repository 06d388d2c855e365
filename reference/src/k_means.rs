//! Clustering of token features.

use lacuna_core::{Element, Error, KMeansMetric, KMeansOptions, Result, TensorView};

use crate::testing::Rng;

/// The result of [`k_means`].
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// `[clusters, features]`: the mean of each cluster.
    pub centroids: Vec<f64>,
    /// The cluster of each point. No cluster is empty.
    pub assignment: Vec<u32>,
    /// The point nearest to the centroid of each cluster, as ascending point indices.
    pub representatives: Vec<u32>,
}

/// Lloyd's k-means of `points`, `[points, 1, features]`, into `k = min(clusters, points)` clusters.
///
/// - *Metric*: cosine scales every point to unit length first (zero stays zero); distances are squared Euclidean.
/// - *Start* (k-means++, Arthur & Vassilvitskii 2007): uniform numbers `u` come from SplitMix64 with `seed`, 53 bits
///   each. The first centroid is point `floor(u n)`. For each other one, with `d` the distance of a point to its nearest
///   centroid, it is the first point at which the running sum of `d` exceeds `u` times the whole; where all `d` are 0,
///   the lowest point not taken yet.
/// - *Assignment*: to the nearest centroid, ties to the lowest cluster.
/// - *Empty clusters*, lowest first, take the point farthest from its own centroid, ties to the lowest point, out of a
///   cluster of more than one.
/// - *Update*: centroids become means. Ends when no assignment changes, or after `max_iterations` rounds.
/// - *Representatives*: the member with the smallest distance to the centroid, for cosine the one with the largest dot
///   product; ties to the lowest point.
///
/// # Errors
/// Options out of range, more than one head, no points.
pub fn k_means<T: Element>(points: &TensorView<T>, options: &KMeansOptions) -> Result<KMeans> {
    const OP: &str = "k_means";
    options.check(OP)?;
    let [n, heads, dim] = points.shape();
    if n == 0 || heads != 1 {
        return Err(Error::shape(OP, "points", ["at least 1", "1", "features"], points.shape()));
    }
    let cosine = options.metric == KMeansMetric::Cosine;
    let points: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let row: Vec<f64> = points.row(i, 0).iter().map(|x| x.to_f32() as f64).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            if cosine && norm > 0.0 { row.iter().map(|x| x / norm).collect() } else { row }
        })
        .collect();
    let k = options.clusters.min(n);
    let mut centroids: Vec<Vec<f64>> =
        plus_plus(&points, k, options.seed).into_iter().map(|i| points[i].clone()).collect();
    let mut assignment = Vec::new();
    for _ in 0..options.max_iterations {
        let next = assign(&points, &centroids);
        if next == assignment {
            break;
        }
        assignment = next;
        for (cluster, centroid) in centroids.iter_mut().enumerate() {
            let members: Vec<usize> = (0..n).filter(|&i| assignment[i] == cluster).collect();
            *centroid = (0..dim)
                .map(|d| members.iter().map(|&i| points[i][d]).sum::<f64>() / members.len() as f64)
                .collect();
        }
    }
    let mut representatives: Vec<u32> = (0..k)
        .map(|cluster| {
            let cost = |i: usize| {
                if cosine {
                    -dot(&points[i], &centroids[cluster])
                } else {
                    distance(&points[i], &centroids[cluster])
                }
            };
            first_least((0..n).filter(|&i| assignment[i] == cluster), cost) as u32
        })
        .collect();
    representatives.sort_unstable();
    Ok(KMeans {
        centroids: centroids.concat(),
        assignment: assignment.into_iter().map(|cluster| cluster as u32).collect(),
        representatives,
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The first of the items whose cost is least; NaN costs more than any number.
fn first_least(items: impl Iterator<Item = usize>, cost: impl Fn(usize) -> f64) -> usize {
    let rank = |i: usize| if cost(i).is_nan() { f64::INFINITY } else { cost(i) };
    items.min_by(|&a, &b| rank(a).total_cmp(&rank(b))).expect("at least one item")
}

fn plus_plus(points: &[Vec<f64>], k: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let mut taken = vec![(rng.uniform() * points.len() as f64) as usize];
    while taken.len() < k {
        let nearest: Vec<f64> = points
            .iter()
            .map(|x| taken.iter().map(|&c| distance(x, &points[c])).fold(f64::INFINITY, f64::min))
            .collect();
        let target = rng.uniform() * nearest.iter().sum::<f64>();
        let mut sum = 0.0;
        let next = nearest.iter().position(|d| {
            sum += d;
            sum > target
        });
        let lowest_free =
            || (0..points.len()).find(|i| !taken.contains(i)).expect("k is at most the number of points");
        let next = next.filter(|i| !taken.contains(i)).unwrap_or_else(lowest_free);
        taken.push(next);
    }
    taken
}

fn assign(points: &[Vec<f64>], centroids: &[Vec<f64>]) -> Vec<usize> {
    let mut assignment: Vec<usize> =
        points.iter().map(|x| first_least(0..centroids.len(), |c| distance(x, &centroids[c]))).collect();
    for cluster in 0..centroids.len() {
        if assignment.contains(&cluster) {
            continue;
        }
        let shared = |i: &usize| assignment.iter().filter(|&&c| c == assignment[*i]).count() > 1;
        let far = |i: usize| -distance(&points[i], &centroids[assignment[i]]);
        let farthest = first_least((0..points.len()).filter(shared), far);
        assignment[farthest] = cluster;
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tensor, seeds};
    use lacuna_core::Layout;

    #[test]
    fn finds_separated_clusters_from_any_seed() {
        for seed in seeds(20) {
            let mut rng = Rng::new(seed);
            let points = Tensor::<f32>::from_fn(Layout::thd(60, 1, 3), |i, _, d| {
                0.1 * rng.normal() + if i % 3 == d { 10.0 } else { 0.0 }
            });
            for metric in [KMeansMetric::Euclidean, KMeansMetric::Cosine] {
                let options = KMeansOptions { clusters: 3, metric, seed, ..Default::default() };
                let found = k_means(&points.view(), &options).unwrap();
                for i in 0..60 {
                    assert_eq!(found.assignment[i], found.assignment[i % 3], "{}", crate::case!(seed));
                }
                let kinds: Vec<u32> = found.representatives.iter().map(|i| i % 3).collect();
                assert!((0..3).all(|kind| kinds.contains(&kind)), "{}", crate::case!(seed));
                let middle = |x: f64| (x - 10.0).abs() < 0.2 || (x - 1.0).abs() < 0.02 || x.abs() < 0.1;
                assert!(found.centroids.iter().all(|&x| middle(x)), "{:?}", found.centroids);
            }
        }
    }

    #[test]
    fn equal_points_fill_every_cluster() {
        let ones = [1.0f32; 10];
        let options = KMeansOptions { clusters: 4, ..Default::default() };
        let found = k_means(&TensorView::thd(&ones, 5, 1, 2).unwrap(), &options).unwrap();
        assert_eq!(found.representatives.len(), 4);
        assert_eq!(found.representatives[..3], [0, 1, 2]);
        assert_eq!(found.centroids, [1.0; 8]);
        // More clusters than points: every point stands for itself.
        let options = KMeansOptions { clusters: 9, ..Default::default() };
        let points = [0.0f32, 1.0, 5.0];
        let found = k_means(&TensorView::thd(&points, 3, 1, 1).unwrap(), &options).unwrap();
        assert_eq!(found.representatives, [0, 1, 2]);
    }

    #[test]
    fn cosine_ignores_length() {
        // Directions east and north; Euclid would part the long from the short.
        let points = [100.0f32, 0.0, 1.0, 0.01, 0.0, 100.0, 0.01, 1.0];
        let view = TensorView::thd(&points, 4, 1, 2).unwrap();
        let options = KMeansOptions { clusters: 2, metric: KMeansMetric::Cosine, ..Default::default() };
        let found = k_means(&view, &options).unwrap().assignment;
        assert!(found[0] == found[1] && found[2] == found[3] && found[0] != found[2], "{found:?}");
    }

    #[test]
    fn nan_does_not_stop_it_and_no_points_are_refused() {
        let points = [0.0f32, f32::NAN, 1.0, 2.0];
        let options = KMeansOptions { clusters: 2, ..Default::default() };
        assert_eq!(
            k_means(&TensorView::thd(&points, 4, 1, 1).unwrap(), &options).unwrap().assignment.len(),
            4
        );
        assert!(k_means(&TensorView::thd(&points, 0, 1, 1).unwrap(), &options).is_err());
        assert!(k_means(&TensorView::thd(&points, 2, 2, 1).unwrap(), &options).is_err());
    }
}
