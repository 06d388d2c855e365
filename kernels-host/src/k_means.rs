//! k-means of token features.

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{Element, Error, KMeansMetric, KMeansOptions, Result};
use lacuna_kernels_gpu::kernel::{KMeansStep, k_means_step};
use lacuna_kernels_gpu::params::KMeansParams;
use lacuna_kernels_gpu::tile_size::{K_MEANS_CHUNK, K_MEANS_POINTS, K_MEANS_TILE, WARP};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

const OP: &str = "k_means";

/// Lloyd's k-means of 16-bit points, `[points, 1, features]`, into `min(clusters, points)` clusters.
///
/// Starts by k-means++ (Arthur & Vassilvitskii 2007) with the numbers of SplitMix64; assigns every point to its nearest
/// centroid, ties to the lowest cluster; gives an empty cluster the point farthest from its own centroid; ends when no
/// assignment changes or after `max_iterations` rounds. A cluster is represented by its member nearest to the mean, for
/// the cosine metric by the one with the largest dot product; ties go to the lowest point. `lacuna-reference` states the
/// rules in full. The result depends on the points and the options alone: not on the grid, nor on when CTAs run.
///
/// The host takes no part while it runs: `clusters + 2 + 3 max_iterations` launches are queued, of which those after the
/// round that settles leave at once. They are many and short; recorded into a [`Graph`](crate::Graph) they cost least.
///
/// # Numerics
/// Distances and means are `f32`, the running sums that draw the starts twice that. Assignment multiplies by tensor cores
/// with centroids in two 16-bit parts: of bf16 points, to within 2^-18 of a feature's size, of f16 points to within 2^-24
/// or an absolute 2^-25. Points that are nearer than that to the middle of two centroids may go to either. Squared lengths
/// must lie within the range of `f32`. Features that are not finite do not stop it; where they decide, the lowest index
/// wins.
#[derive(Debug)]
pub struct Plan<T> {
    points: usize,
    features: usize,
    params: KMeansParams,
    rounds: usize,
    prepare: Launch,
    seed: Launch,
    update: Launch,
    assign: Launch,
    fill: Launch,
    represent: Launch,
    workspace: Workspace,
    element: PhantomData<T>,
}

/// What the kernels hand on to one another; see [`k_means_step`].
#[derive(Debug)]
struct Workspace {
    scales: DeviceBuffer<f32>,
    nearest: DeviceBuffer<f32>,
    sums: DeviceBuffer<[f32; 2]>,
    uniforms: DeviceBuffer<[f32; 2]>,
    starts: DeviceBuffer<u32>,
    split: DeviceBuffer<u16>,
    squares: DeviceBuffer<f32>,
    keys: DeviceBuffer<u64>,
    control: DeviceBuffer<u32>,
    counts: DeviceBuffer<u32>,
    flags: DeviceBuffer<u32>,
    /// The assignment of every other round.
    other: DeviceBuffer<u32>,
}

impl<T: Element + Pod> Plan<T> {
    /// Plans the clustering of `points` points, and allocates the workspace.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, no points, an element type that is not 16-bit, and a number of
    /// features that is no positive multiple of 8; [`Error::TooLarge`] for more than 2^30 points or features, or more than
    /// 4,194,240 clusters; [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, points: usize, features: usize, options: &KMeansOptions) -> Result<Self> {
        options.check(OP)?;
        if points == 0 {
            return Err(Error::invalid(OP, "points", "at least 1", points));
        }
        if features == 0 || !features.is_multiple_of(8) {
            return Err(Error::invalid(OP, "features", "a positive multiple of 8 on a device", features));
        }
        for (what, n) in [("the number of points", points), ("the number of features", features)] {
            if n > 1 << 30 {
                return Err(Error::TooLarge { op: OP, what, limit: 1 << 30, got: n.to_string() });
            }
        }
        let clusters = options.clusters.min(points);
        let chunks = features.div_ceil(K_MEANS_CHUNK as usize);
        let tiles = points.div_ceil(K_MEANS_POINTS as usize);
        let tile = K_MEANS_TILE as usize;
        let launch = |step, grid: [usize; 2], what: [&'static str; 2]| {
            let kernel = k_means_step(check::dtype::<T>(), step)
                .ok_or_else(|| Error::invalid(OP, "dtype", "bf16 or f16 on a device", T::DTYPE))?;
            Launch::new(context, OP, &kernel, [grid[0], grid[1], 1], [what[0], what[1], ""])
        };
        let of_points = ["the number of points", ""];
        let (first, uniforms) = draws(options.seed, points, clusters);
        Ok(Self {
            points,
            features,
            params: KMeansParams {
                point_step: 0,
                points: points as u32,
                features: features as u32,
                clusters: clusters as u32,
                chunks: chunks as u32,
                cosine: (options.metric == KMeansMetric::Cosine).into(),
                step: first,
            },
            rounds: options.max_iterations,
            prepare: launch(KMeansStep::Prepare, [tiles, 1], of_points)?,
            seed: launch(KMeansStep::Seed, [tiles, 1], of_points)?,
            update: launch(KMeansStep::Update, [clusters, chunks], ["the number of clusters", "features"])?,
            assign: launch(
                KMeansStep::Assign,
                [points.div_ceil(tile), clusters.div_ceil(tile)],
                ["the number of points", "the number of clusters, in tiles of 64,"],
            )?,
            fill: launch(KMeansStep::Fill, [tiles, 1], of_points)?,
            represent: launch(KMeansStep::Represent, [clusters, 1], ["the number of clusters", ""])?,
            workspace: Workspace::new(context, points, features, &uniforms)?,
            element: PhantomData,
        })
    }

    /// Clusters: the points, if they are fewer than the options ask for.
    pub fn clusters(&self) -> usize {
        self.params.clusters as usize
    }

    /// Bytes of device memory that the plan holds: of the order of the points, and twice the centroids in 16 bits.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace.bytes()
    }

    /// Queues the clustering: launches, and nothing else.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `points` | `[points, 1, features]` | `T` |
    /// | `centroids` | `[clusters, features]`: the mean of each cluster | `f32` |
    /// | `assignment` | `[points]`: the cluster of each point | `u32` |
    /// | `representatives` | `[clusters]`: a point of each cluster, ascending | `u32` |
    ///
    /// Addresses and the stride between points are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where an argument does not fit the plan, [`Error::InvalidArgument`] for one that is not
    /// aligned or lies on another device.
    pub fn run(
        &mut self,
        stream: &Stream,
        points: &DeviceView<T>,
        centroids: &mut DeviceBuffer<f32>,
        assignment: &mut DeviceBuffer<u32>,
        representatives: &mut DeviceBuffer<u32>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.prepare.context();
        arg("stream").stream(context, stream)?;
        let points = arg("points").view(context, points, [self.points, 1, self.features])?;
        let clusters = self.clusters();
        let centroids = arg("centroids").list(context, Some(&*centroids), [clusters, self.features])?;
        let assignment = arg("assignment").list(context, Some(&*assignment), [self.points])?;
        let representatives = arg("representatives").list(context, Some(&*representatives), [clusters])?;
        // SAFETY: the arguments have the plan's sizes and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), points, centroids, assignment, representatives) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. Alignment is checked. `points.head_stride` is not used.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: the addresses are those of memory of the plan's device that holds
    /// what [`Plan::run`] says. No other work that uses the plan's workspace runs meanwhile: other runs of this plan are on
    /// the same stream or ordered by events.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, and what the driver reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        points: RawTensor,
        centroids: DevicePtr,
        assignment: DevicePtr,
        representatives: DevicePtr,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let strides = arg("points").raw::<T>(&RawTensor { head_stride: 0, ..points })?;
        arg("centroids").aligned(centroids)?;
        let prepare = KMeansParams { point_step: strides.token, ..self.params };
        let at_step = |step| KMeansParams { step, ..prepare };
        let w = &self.workspace;
        let (x, scales, control) = (points.ptr, w.scales.ptr(), w.control.ptr());
        let (split, squares, counts) = (w.split.ptr(), w.squares.ptr(), w.counts.ptr());
        let (nearest, keys, starts) = (w.nearest.ptr(), w.keys.ptr(), w.starts.ptr());
        // The last round leaves its clusters where they are asked for.
        let by_round = [w.other.ptr(), assignment];
        let clusters_of = |round: usize| by_round[(round + self.rounds) % 2];
        // SAFETY: the caller's promise for the arguments; the rest is the plan's, of the sizes that the kernels say, and
        // everything is on one stream, in the order that they say.
        unsafe {
            let previous = clusters_of(1);
            self.prepare.run(
                stream,
                [x, scales, nearest, keys, previous, control, counts, w.flags.ptr(), starts],
                &prepare,
            )?;
            for start in 1..self.params.clusters {
                let (sums, uniforms) = (w.sums.ptr(), w.uniforms.ptr());
                self.seed.run(
                    stream,
                    [x, scales, nearest, sums, uniforms, starts, control],
                    &at_step(start),
                )?;
            }
            let update = |members, step| {
                self.update.run(
                    stream,
                    [x, scales, members, centroids, split, squares, control, counts],
                    &at_step(step),
                )
            };
            update(starts, 1)?;
            for round in 0..self.rounds {
                let (previous, next) = (clusters_of(round + 1), clusters_of(round));
                self.assign.run(
                    stream,
                    [x, scales, split, squares, keys, previous, next, control, counts],
                    &prepare,
                )?;
                self.fill.run(
                    stream,
                    [x, scales, centroids, nearest, previous, next, control, counts],
                    &prepare,
                )?;
                update(next, 0)?;
            }
            self.represent.run(
                stream,
                [x, scales, centroids, assignment, w.flags.ptr(), representatives, control],
                &prepare,
            )
        }
    }
}

impl Workspace {
    fn new(context: &Context, points: usize, features: usize, uniforms: &[[f32; 2]]) -> Result<Self> {
        let clusters = uniforms.len();
        let chunks = features.div_ceil(K_MEANS_CHUNK as usize);
        let control = 4 + points.div_ceil(K_MEANS_TILE as usize);
        // Points, features and clusters are below 2^31: twice the product of two of them does not overflow.
        Ok(Self {
            scales: DeviceBuffer::uninit(context, points, "k_means scales")?,
            nearest: DeviceBuffer::uninit(context, points, "k_means distances")?,
            sums: DeviceBuffer::uninit(
                context,
                points.div_ceil(K_MEANS_POINTS as usize),
                "k_means sums of distances",
            )?,
            uniforms: DeviceBuffer::from_host(context, uniforms, "k_means uniform numbers")?,
            starts: DeviceBuffer::uninit(context, clusters, "k_means starts")?,
            split: DeviceBuffer::uninit(context, 2 * clusters * features, "k_means parts of centroids")?,
            squares: DeviceBuffer::uninit(context, clusters * chunks, "k_means squares of centroids")?,
            keys: DeviceBuffer::uninit(context, points, "k_means keys of points")?,
            control: DeviceBuffer::uninit(context, control, "k_means tickets and flags")?,
            counts: DeviceBuffer::uninit(context, clusters, "k_means members per cluster")?,
            flags: DeviceBuffer::uninit(context, points.div_ceil(WARP as usize), "k_means representatives")?,
            other: DeviceBuffer::uninit(context, points, "k_means assignment of the round before")?,
        })
    }

    fn bytes(&self) -> usize {
        let Self {
            scales,
            nearest,
            sums,
            uniforms,
            starts,
            split,
            squares,
            keys,
            control,
            counts,
            flags,
            other,
        } = self;
        let words = [starts, control, counts, flags, other].map(DeviceBuffer::len).iter().sum::<usize>();
        4 * (scales.len() + nearest.len() + squares.len() + words)
            + 8 * (sums.len() + uniforms.len() + keys.len())
            + 2 * split.len()
    }
}

/// The first start, and for each start the uniform number that draws it, as the sum of two f32: 48 of its 53 bits.
fn draws(seed: u64, points: usize, clusters: usize) -> (u32, Vec<[f32; 2]>) {
    let mut state = seed;
    let uniforms: Vec<f64> = (0..clusters).map(|_| uniform(&mut state)).collect();
    let parts = |u: f64| {
        let hi = u as f32;
        [hi, (u - hi as f64) as f32]
    };
    ((uniforms[0] * points as f64) as u32, uniforms.into_iter().map(parts).collect())
}

/// The next number of SplitMix64 (Steele, Lea & Flood 2014), uniform in [0, 1) with 53 bits.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_reference::testing::Rng;

    #[test]
    fn draws_are_those_of_the_reference() {
        let mut rng = Rng::new(42);
        let (first, uniforms) = draws(42, 1000, 50);
        assert_eq!(first, (rng.uniform() * 1000.0) as u32);
        for [hi, lo] in &uniforms[1..] {
            assert!((*hi as f64 + *lo as f64 - rng.uniform()).abs() < 2f64.powi(-48));
        }
    }
}
