//! k-means.

use super::ELEMENT_BYTES;

/// Threads of a CTA of the kernels of k-means, assignment aside.
pub const K_MEANS_THREADS: u32 = 256;

/// Points of a CTA that measures distances, two per warp: 512 points occupy 32 CTAs.
pub const K_MEANS_POINTS: u32 = 16;

/// Points that a CTA looks through at a time for the members of a cluster.
pub const K_MEANS_SEGMENT: u32 = 2048;

/// Features of a centroid that one CTA computes, at most.
pub const K_MEANS_CHUNK: u32 = 1024;

/// Threads of a CTA of assignment.
pub const K_MEANS_ASSIGN_THREADS: u32 = 128;

/// Points, and centroids, of a CTA of assignment.
pub const K_MEANS_TILE: u32 = 64;

/// Features of a step of assignment.
pub const K_MEANS_STEP: u32 = 64;

/// Steps of assignment whose features are in shared memory or under way.
pub const K_MEANS_ASSIGN_STAGES: u32 = 3;

/// Shared memory of assignment: points and two parts of centroids per stage, and the squares of the centroids.
pub const K_MEANS_ASSIGN_SMEM_BYTES: u32 =
    K_MEANS_ASSIGN_STAGES * 3 * K_MEANS_TILE * K_MEANS_STEP * ELEMENT_BYTES + K_MEANS_TILE * 4;

/// Shared memory in which the warps of a CTA compare what they found.
pub const K_MEANS_VOTE_SMEM_BYTES: u32 = 128;

/// Shared memory of a list of members: a place and a bit for every point of a segment.
pub const K_MEANS_MEMBERS_SMEM_BYTES: u32 = K_MEANS_SEGMENT * 4 + K_MEANS_SEGMENT / 8;

/// Shared memory of an update: that list, and a square for every 8 features.
pub const K_MEANS_UPDATE_SMEM_BYTES: u32 = K_MEANS_MEMBERS_SMEM_BYTES + K_MEANS_CHUNK / 8 * 4;
