//! Kernels for compute capability 8.0 and later.

use super::rows::Points;
use super::{assign, fill, prepare, represent, seed, update};
use crate::element::{Bf16, F16};
use crate::params::KMeansParams;

macro_rules! k_means {
    ($element:ty: $prepare:ident $seed:ident $update:ident $assign:ident $fill:ident $represent:ident) => {
        kernel! {
            fn $prepare(points: u64, scales: u64, nearest: u64, keys: u64, previous: u64, control: u64, counts: u64,
                flags: u64, starts: u64, params: KMeansParams) {
                let state = prepare::State { nearest, keys, previous, control, counts, flags, starts };
                // SAFETY: see `crate::kernel`.
                unsafe { prepare::prepare::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
        kernel! {
            fn $seed(points: u64, scales: u64, nearest: u64, sums: u64, uniforms: u64, starts: u64, control: u64,
                params: KMeansParams) {
                let state = seed::State { nearest, sums, uniforms, starts, control };
                // SAFETY: see `crate::kernel`.
                unsafe { seed::seed::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
        kernel! {
            fn $update(points: u64, scales: u64, members: u64, centroids: u64, split: u64, squares: u64, control: u64,
                counts: u64, params: KMeansParams) {
                let state = update::State { members, centroids, split, squares, control, counts };
                // SAFETY: see `crate::kernel`.
                unsafe { update::update::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
        kernel! {
            fn $assign(points: u64, scales: u64, split: u64, squares: u64, keys: u64, previous: u64, next: u64,
                control: u64, counts: u64, params: KMeansParams) {
                let state = assign::State { split, squares, keys, previous, next, control, counts };
                // SAFETY: see `crate::kernel`.
                unsafe { assign::assign::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
        kernel! {
            fn $fill(points: u64, scales: u64, centroids: u64, distances: u64, previous: u64, next: u64, control: u64,
                counts: u64, params: KMeansParams) {
                let state = fill::State { centroids, distances, previous, next, control, counts };
                // SAFETY: see `crate::kernel`.
                unsafe { fill::fill::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
        kernel! {
            fn $represent(points: u64, scales: u64, centroids: u64, assignment: u64, flags: u64, representatives: u64,
                control: u64, params: KMeansParams) {
                let state = represent::State { centroids, assignment, flags, representatives, control };
                // SAFETY: see `crate::kernel`.
                unsafe { represent::represent::<$element>(Points::new(points, scales, &params), state, &params) }
            }
        }
    };
}

k_means!(Bf16: k_means_bf16_prepare k_means_bf16_seed k_means_bf16_update k_means_bf16_assign k_means_bf16_fill
    k_means_bf16_represent);
k_means!(F16: k_means_f16_prepare k_means_f16_seed k_means_f16_update k_means_f16_assign k_means_f16_fill
    k_means_f16_represent);
