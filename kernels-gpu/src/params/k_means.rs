//! k-means.

use super::Params;

params! {
    /// The last parameter of the kernels of `k_means`.
    KMeansParams, 32 {
        /// Elements from a point to the next; a multiple of 8.
        point_step: u64,
        /// Points; at least 1.
        points: u32,
        /// Features of a point, a multiple of 8; at least 8.
        features: u32,
        /// Clusters; at least 1, at most the points.
        clusters: u32,
        /// Chunks of [`K_MEANS_CHUNK`](crate::tile_size::K_MEANS_CHUNK) features.
        chunks: u32,
        /// 1 for the cosine metric, 0 for the Euclidean.
        cosine: u32,
        /// Of `prepare`, the first point to start from; of `seed`, which start it draws; of `update`, 1 to take the starts,
        /// 0 for the means of the members. The others take no notice.
        step: u32,
    }
}
