//! k-means.

use super::{Dtype, Kernel};
use crate::tile_size::{
    K_MEANS_ASSIGN_SMEM_BYTES, K_MEANS_ASSIGN_THREADS, K_MEANS_MEMBERS_SMEM_BYTES, K_MEANS_THREADS,
    K_MEANS_UPDATE_SMEM_BYTES, K_MEANS_VOTE_SMEM_BYTES,
};

/// The steps of k-means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KMeansStep {
    /// Scales of the points; everything else as it is at the start.
    Prepare,
    /// One more point to start from.
    Seed,
    /// Centroids from the starts, or from the members.
    Update,
    /// The nearest centroid of every point.
    Assign,
    /// Points for empty clusters.
    Fill,
    /// The member that stands for each cluster.
    Represent,
}

/// A kernel of k-means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeansKernel {
    /// What to launch.
    pub kernel: Kernel,
    /// Element type of the points.
    pub dtype: Dtype,
    /// Its step.
    pub step: KMeansStep,
}

const fn k_means(name: &'static str, dtype: Dtype, step: KMeansStep) -> KMeansKernel {
    let (threads, min_ctas_per_sm, dynamic_smem_bytes) = match step {
        KMeansStep::Prepare => (K_MEANS_THREADS, 4, 0),
        KMeansStep::Seed => (K_MEANS_THREADS, 4, K_MEANS_VOTE_SMEM_BYTES),
        KMeansStep::Fill => (K_MEANS_THREADS, 3, K_MEANS_VOTE_SMEM_BYTES),
        KMeansStep::Update => (K_MEANS_THREADS, 4, K_MEANS_UPDATE_SMEM_BYTES),
        KMeansStep::Assign => (K_MEANS_ASSIGN_THREADS, 2, K_MEANS_ASSIGN_SMEM_BYTES),
        KMeansStep::Represent => (K_MEANS_THREADS, 3, K_MEANS_MEMBERS_SMEM_BYTES),
    };
    let kernel = Kernel { name, threads, min_ctas_per_sm, dynamic_smem_bytes };
    KMeansKernel { kernel, dtype, step }
}

pub(super) const K_MEANS: [KMeansKernel; 12] = [
    k_means("k_means_bf16_prepare", Dtype::Bf16, KMeansStep::Prepare),
    k_means("k_means_bf16_seed", Dtype::Bf16, KMeansStep::Seed),
    k_means("k_means_bf16_update", Dtype::Bf16, KMeansStep::Update),
    k_means("k_means_bf16_assign", Dtype::Bf16, KMeansStep::Assign),
    k_means("k_means_bf16_fill", Dtype::Bf16, KMeansStep::Fill),
    k_means("k_means_bf16_represent", Dtype::Bf16, KMeansStep::Represent),
    k_means("k_means_f16_prepare", Dtype::F16, KMeansStep::Prepare),
    k_means("k_means_f16_seed", Dtype::F16, KMeansStep::Seed),
    k_means("k_means_f16_update", Dtype::F16, KMeansStep::Update),
    k_means("k_means_f16_assign", Dtype::F16, KMeansStep::Assign),
    k_means("k_means_f16_fill", Dtype::F16, KMeansStep::Fill),
    k_means("k_means_f16_represent", Dtype::F16, KMeansStep::Represent),
];

/// The kernel of a step of k-means for an element type.
///
/// | step | parameters before [`KMeansParams`](crate::params::KMeansParams) | grid |
/// |---|---|---|
/// | prepare | `points`, `scales`, `nearest`, `keys`, `previous`, `control`, `counts`, `flags`, `starts` | (points / [`K_MEANS_POINTS`](crate::tile_size::K_MEANS_POINTS)) |
/// | seed | `points`, `scales`, `nearest`, `sums`, `uniforms`, `starts`, `control` | the same |
/// | update | `points`, `scales`, `next` (`starts`, if `step` is 1), `centroids`, `split`, `squares`, `control`, `counts` | (clusters, chunks) |
/// | assign | `points`, `scales`, `split`, `squares`, `keys`, `previous`, `next`, `control`, `counts` | (points, clusters) / [`K_MEANS_TILE`](crate::tile_size::K_MEANS_TILE) |
/// | fill | `points`, `scales`, `centroids`, `nearest`, `previous`, `next`, `control`, `counts` | as prepare |
/// | represent | `points`, `scales`, `centroids`, `next`, `flags`, `representatives`, `control` | (clusters) |
///
/// Quotients are rounded up.
///
/// | parameter | type | holds |
/// |---|---|---|
/// | `points` | `*const` 16-bit | `[points, features]` |
/// | `centroids` | `*mut f32` | output, `[clusters, features]` |
/// | `previous`, `next` | `*mut u32` | `[points]`, the clusters of the round before and of this one; they change places from round to round |
/// | `representatives` | `*mut u32` | output, `[clusters]`, ascending |
/// | `scales`, `nearest` | `*mut f32` | workspace, `[points]` |
/// | `sums` | `*mut [f32; 2]` | workspace, `[points / K_MEANS_POINTS]` |
/// | `uniforms` | `*const [f32; 2]` | `[clusters]`: the uniform number that draws a start, in two parts; the first is not read |
/// | `starts` | `*mut u32` | workspace, `[clusters]` |
/// | `split` | `*mut` 16-bit | workspace, `[2, clusters, features]` |
/// | `squares` | `*mut f32` | workspace, `[clusters, chunks]` |
/// | `keys` | `*mut u64` | workspace, `[points]` |
/// | `control` | `*mut u32` | workspace, `[4 + points / K_MEANS_TILE]` |
/// | `counts` | `*mut u32` | workspace, `[clusters]` |
/// | `flags` | `*mut u32` | workspace, `[points / 32]` |
///
/// In this order: prepare, seed for `step` from 1 to below the clusters, update with `step` 1, then rounds of assign, fill
/// and update with `step` 0, then represent. Rounds after one that has changed nothing leave all as it is: `previous` and
/// `next` are the same by then.
pub fn k_means_step(dtype: Dtype, step: KMeansStep) -> Option<Kernel> {
    K_MEANS.into_iter().find(|k| (k.dtype, k.step) == (dtype, step)).map(|k| k.kernel)
}
