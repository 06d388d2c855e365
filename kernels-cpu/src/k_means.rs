//! Clustering of token features, for summaries that keep one token per cluster.

use std::ops::Range;

use lacuna_core::{Element, Error, KMeansMetric, KMeansOptions, Result, TensorView};
use rayon::prelude::*;

use crate::buffer::{Buffer, zeroed_vec};
use crate::pack::{HeadDim, pack_keys};
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Isa, Kernel, Operand};

const OP: &str = "k_means";

/// Points that one thread takes at a time; rows of a tile of products.
const POINTS: usize = 64;

/// Centroids of a tile of products.
const CENTROIDS: usize = 64;

/// Features of a tile of products: its centroids stay in the nearest cache while the points pass.
const FEATURES: usize = 128;

/// The result of [`k_means`].
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// `[clusters, features]`: the mean of each cluster.
    pub centroids: Vec<f32>,
    /// The cluster of each point. No cluster is empty.
    pub assignment: Vec<u32>,
    /// The point nearest to the centroid of each cluster, as ascending point indices.
    pub representatives: Vec<u32>,
}

/// Lloyd's k-means of `points`, `[points, 1, features]`, into `min(clusters, points)` clusters.
///
/// Starts by k-means++ (Arthur & Vassilvitskii 2007) with the numbers of SplitMix64; assigns every point to its nearest
/// centroid, ties to the lowest cluster; gives an empty cluster the point farthest from its own centroid; ends when no
/// assignment changes or after `max_iterations` rounds. A cluster is represented by its member nearest to the mean, for
/// the cosine metric by the one with the largest dot product; ties go to the lowest point. `lacuna-reference` states the
/// rules in full. The result depends on the points and the options alone.
///
/// Distances are `f32`, means and running sums `f64`. Features that are not finite do not stop it; where they decide, the
/// lowest index wins.
///
/// # Errors
/// Options out of range, more than one head, no points.
///
/// ```
/// use lacuna_core::{KMeansOptions, TensorView};
/// use lacuna_kernels_cpu::k_means::k_means;
/// let points = [0.0f32, 10.0, 0.2, 10.4, 0.1, 10.1];
/// let options = KMeansOptions { clusters: 2, ..Default::default() };
/// let found = k_means(&TensorView::thd(&points, 6, 1, 1)?, &options)?;
/// assert_eq!(found.representatives, [4, 5]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn k_means<T: Element>(points: &TensorView<T>, options: &KMeansOptions) -> Result<KMeans> {
    options.check(OP)?;
    let [n, heads, features] = points.shape();
    if n == 0 || heads != 1 {
        return Err(Error::shape(OP, "points", ["at least 1", "1", "features"], points.shape()));
    }
    if u32::try_from(n).is_err() {
        return Err(Error::TooLarge {
            op: OP,
            what: "the number of points",
            limit: u32::MAX as u64,
            got: n.to_string(),
        });
    }
    let cosine = options.metric == KMeansMetric::Cosine;
    let points = Points::new(points, cosine)?;
    let k = options.clusters.min(n);
    let starts = points.plus_plus(k, options.seed);
    let mut centroids: Vec<f32> = zeroed_vec(OP, &[k, features])?;
    for (cluster, &point) in starts.iter().enumerate() {
        centroids[cluster * features..][..features].copy_from_slice(points.row(point));
    }
    let mut clustering = Clustering::new(&points, k)?;
    for _ in 0..options.max_iterations {
        if !clustering.assign(&points, &centroids) {
            break;
        }
        clustering.update(&points, &mut centroids);
    }
    let representatives = clustering.representatives(&points, &centroids, cosine);
    Ok(KMeans { centroids, assignment: clustering.assignment, representatives })
}

/// The points as contiguous `f32` rows, of unit length for the cosine metric.
struct Points {
    isa: Isa,
    len: usize,
    features: usize,
    rows: Vec<f32>,
}

impl Points {
    fn new<T: Element>(points: &TensorView<T>, unit: bool) -> Result<Self> {
        let [len, _, features] = points.shape();
        let mut rows: Vec<f32> = zeroed_vec(OP, &[len, features])?;
        rows.par_chunks_exact_mut(features.max(1)).enumerate().for_each(|(i, row)| {
            let point = points.row(i, 0);
            let norm = point.iter().map(|x| x.to_f32() as f64 * x.to_f32() as f64).sum::<f64>().sqrt();
            let divisor = if unit && norm > 0.0 { norm } else { 1.0 };
            for (to, x) in row.iter_mut().zip(point) {
                *to = (x.to_f32() as f64 / divisor) as f32;
            }
        });
        Ok(Self { isa: Isa::current(), len, features, rows })
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.features..][..self.features]
    }

    fn distance(&self, a: &[f32], b: &[f32]) -> f32 {
        self.isa.run::<f32, _>(Distance { a, b })
    }

    /// Points to start from: far ones are likely.
    fn plus_plus(&self, k: usize, seed: u64) -> Vec<usize> {
        let mut rng = SplitMix64(seed);
        let mut starts = vec![(rng.uniform() * self.len as f64) as usize];
        let mut taken = vec![false; self.len];
        let mut nearest = vec![f32::INFINITY; self.len];
        while let Some(&last) = starts.last() {
            taken[last] = true;
            if starts.len() == k {
                break;
            }
            nearest.par_chunks_mut(POINTS).enumerate().for_each(|(chunk, nearest)| {
                for (i, nearest) in nearest.iter_mut().enumerate() {
                    let distance = self.distance(self.row(chunk * POINTS + i), self.row(last));
                    *nearest = nearest.min(distance);
                }
            });
            let target = rng.uniform() * nearest.iter().map(|&d| d as f64).sum::<f64>();
            let mut sum = 0.0;
            let next = nearest.iter().position(|&d| {
                sum += d as f64;
                sum > target
            });
            // Where all distances are 0 none exceeds the target.
            let lowest_free = || taken.iter().position(|&taken| !taken);
            starts.extend(next.filter(|&i| !taken[i]).or_else(lowest_free));
        }
        starts
    }
}

/// Which cluster every point belongs to.
struct Clustering {
    assignment: Vec<u32>,
    next: Vec<u32>,
    /// Points of each cluster.
    counts: Vec<u32>,
    /// Points sorted by cluster, then index; first of each cluster, and the number of points.
    members: Vec<u32>,
    member_starts: Vec<usize>,
    /// Column panels of the centroids, and their squared lengths.
    panels: Buffer,
    squares: Vec<f32>,
}

impl Clustering {
    fn new(points: &Points, k: usize) -> Result<Self> {
        let dim = HeadDim { head_dim: points.features };
        Ok(Self {
            assignment: vec![u32::MAX; points.len],
            next: vec![0; points.len],
            counts: vec![0; k],
            members: vec![0; points.len],
            member_starts: vec![0; k + 1],
            panels: Buffer::zeroed(OP, &[k.next_multiple_of(PANEL), dim.key_stride(1), size_of::<f32>()])?,
            squares: vec![0.0; k],
        })
    }

    /// Assigns every point to its nearest centroid and fills empty clusters. Returns whether anything changed.
    fn assign(&mut self, points: &Points, centroids: &[f32]) -> bool {
        let features = points.features;
        points.isa.run::<f32, _>(PackCentroids { centroids, features, panels: self.panels.as_mut_ptr() });
        let origin = vec![0.0; features];
        for (square, centroid) in self.squares.iter_mut().zip(centroids.chunks_exact(features.max(1))) {
            *square = points.distance(centroid, &origin);
        }
        let (panels, squares) = (&self.panels, &self.squares);
        self.next.par_chunks_mut(POINTS).enumerate().for_each(|(chunk, nearest)| {
            let first = chunk * POINTS;
            let points_of_chunk = first..first + nearest.len();
            points.isa.run::<f32, _>(Nearest { points, range: points_of_chunk, panels, squares, nearest });
        });
        self.fill_empty(points, centroids);
        std::mem::swap(&mut self.assignment, &mut self.next);
        self.assignment != self.next
    }

    /// Empty clusters, lowest first, take the point farthest from its own centroid out of a cluster of more than one.
    fn fill_empty(&mut self, points: &Points, centroids: &[f32]) {
        self.counts.fill(0);
        self.next.iter().for_each(|&cluster| self.counts[cluster as usize] += 1);
        if !self.counts.contains(&0) {
            return;
        }
        let (next, features) = (&self.next, points.features);
        let distances: Vec<f32> = (0..points.len)
            .into_par_iter()
            .map(|i| points.distance(points.row(i), &centroids[next[i] as usize * features..][..features]))
            .collect();
        for cluster in 0..self.counts.len() {
            if self.counts[cluster] > 0 {
                continue;
            }
            let shared = (0..points.len).filter(|&i| self.counts[self.next[i] as usize] > 1);
            // A NaN is nearest of all; the lowest of equals stays.
            let rank = |i: usize| if distances[i].is_nan() { f32::NEG_INFINITY } else { distances[i] };
            let farthest = shared.reduce(|best, i| if rank(i) > rank(best) { i } else { best });
            if let Some(i) = farthest {
                self.counts[self.next[i] as usize] -= 1;
                self.counts[cluster] = 1;
                self.next[i] = cluster as u32;
            }
        }
    }

    /// Moves every centroid to the mean of its members.
    fn update(&mut self, points: &Points, centroids: &mut [f32]) {
        for (cluster, &count) in self.counts.iter().enumerate() {
            self.member_starts[cluster + 1] = self.member_starts[cluster] + count as usize;
        }
        let mut at = self.member_starts.clone();
        for (i, &cluster) in (0..).zip(&self.assignment) {
            self.members[at[cluster as usize]] = i;
            at[cluster as usize] += 1;
        }
        centroids.par_chunks_exact_mut(points.features.max(1)).enumerate().for_each(|(cluster, centroid)| {
            let members = self.members_of(cluster);
            let mut sums = vec![0.0f64; centroid.len()];
            for &member in members {
                for (sum, &x) in sums.iter_mut().zip(points.row(member as usize)) {
                    *sum += x as f64;
                }
            }
            for (to, sum) in centroid.iter_mut().zip(sums) {
                *to = (sum / members.len() as f64) as f32;
            }
        });
    }

    fn members_of(&self, cluster: usize) -> &[u32] {
        &self.members[self.member_starts[cluster]..self.member_starts[cluster + 1]]
    }

    /// The member that stands for each cluster, ascending.
    fn representatives(&self, points: &Points, centroids: &[f32], cosine: bool) -> Vec<u32> {
        let features = points.features;
        let mut representatives: Vec<u32> = (0..self.counts.len())
            .into_par_iter()
            .filter_map(|cluster| {
                let centroid = &centroids[cluster * features..][..features];
                let cost = |member: u32| {
                    let pairs = points.row(member as usize).iter().zip(centroid);
                    let cost: f64 = if cosine {
                        pairs.map(|(&x, &c)| -(x as f64 * c as f64)).sum()
                    } else {
                        pairs.map(|(&x, &c)| (x as f64 - c as f64).powi(2)).sum()
                    };
                    if cost.is_nan() { f64::INFINITY } else { cost }
                };
                let members = self.members_of(cluster).iter().map(|&member| (cost(member), member));
                members
                    .reduce(|best, other| if other.0 < best.0 { other } else { best })
                    .map(|(_, member)| member)
            })
            .collect();
        representatives.sort_unstable();
        representatives
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The squared Euclidean distance, 0 for equal points.
struct Distance<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Distance<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> f32 {
        let Self { a, b } = self;
        let len = a.len().min(b.len());
        let whole = len / (2 * S::LANES) * (2 * S::LANES);
        let mut sums = [s.splat(0.0); 2];
        for i in (0..whole).step_by(2 * S::LANES) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = i + j * S::LANES;
                // SAFETY: both rows hold LANES elements from `at` on.
                let d = unsafe { s.sub(s.load(a.as_ptr().add(at)), s.load(b.as_ptr().add(at))) };
                *sum = s.mul_add(d, d, *sum);
            }
        }
        let mut sum = s.reduce_add(s.add(sums[0], sums[1]));
        for i in whole..len {
            sum += (a[i] - b[i]) * (a[i] - b[i]);
        }
        sum
    }
}

struct PackCentroids<'a> {
    centroids: &'a [f32],
    features: usize,
    panels: *mut f32,
}

impl Kernel for PackCentroids<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { centroids, features, panels } = self;
        let dim = HeadDim { head_dim: features };
        let zeros = vec![0.0f32; features];
        for (i, centroids) in centroids.chunks((PANEL * features).max(1)).enumerate() {
            let mut rows = [zeros.as_slice(); PANEL];
            for (row, centroid) in rows.iter_mut().zip(centroids.chunks_exact(features)) {
                *row = centroid;
            }
            // SAFETY: there is room for a panel for every 16 centroids; all 16 rows are given.
            unsafe { pack_keys(s, dim, &rows, panels.cast::<P>().add(i * PANEL * dim.key_stride(P::PAIR))) };
        }
    }
}

/// Finds the nearest centroid of some points, the lowest of equals.
struct Nearest<'a> {
    points: &'a Points,
    range: Range<usize>,
    panels: &'a Buffer,
    squares: &'a [f32],
    nearest: &'a mut [u32],
}

impl Kernel for Nearest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { points, range, panels, squares, nearest } = self;
        let features = points.features;
        let stride = HeadDim { head_dim: features }.key_stride(P::PAIR);
        let mut tile = [[0.0f32; CENTROIDS]; POINTS];
        let mut least = [f32::INFINITY; POINTS];
        nearest.fill(0);
        for first in (0..squares.len()).step_by(CENTROIDS) {
            let count = CENTROIDS.min(squares.len() - first);
            let mut columns = [std::ptr::null::<P>(); CENTROIDS / PANEL];
            for feature in (0..features).step_by(FEATURES) {
                // SAFETY: the panels lie within the packed centroids, the points within their rows, `f32` both; the
                // tile holds every product.
                unsafe {
                    for (i, column) in columns[..count.div_ceil(PANEL)].iter_mut().enumerate() {
                        *column = panels.as_ptr::<P>().add((first + i * PANEL) * stride + feature * PANEL);
                    }
                    times_columns::<S, P>(
                        s,
                        range.len(),
                        FEATURES.min(features - feature),
                        points.rows.as_ptr().add(range.start * features + feature).cast(),
                        features,
                        &columns[..count.div_ceil(PANEL)],
                        tile.as_mut_ptr().cast(),
                        CENTROIDS,
                        feature > 0,
                    );
                }
            }
            for ((row, least), nearest) in tile.iter().zip(&mut least).zip(&mut *nearest) {
                for (cluster, (&product, &square)) in row.iter().zip(&squares[first..]).enumerate() {
                    // The squared distance less that of the point to the origin.
                    let distance = square - 2.0 * product;
                    if distance < *least {
                        (*least, *nearest) = (distance, (first + cluster) as u32);
                    }
                }
            }
        }
    }
}
