//! Points and centroids as rows of features.

use crate::arch::global::{ld_global_b32, ld_global_v4_b32};
use crate::arch::math::fma;
use crate::arch::shuffle;
use crate::element::Element;
use crate::params::KMeansParams;
use crate::tile_size::{ELEMENT_BYTES, WARP};

/// Features that a thread loads at a time: 16 bytes.
pub(super) const STEP: u32 = 8;

/// Steps of a sum whose loads are under way together.
const UNROLL: usize = 4;

/// The points: rows of 16-bit numbers, each with a factor.
#[derive(Clone, Copy)]
pub(super) struct Points {
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    /// `f32 [points]`.
    pub(super) scales: u64,
    pub(super) features: u32,
}

impl Points {
    #[inline(always)]
    pub(super) fn new(points: u64, scales: u64, params: &KMeansParams) -> Self {
        let row_bytes = params.point_step * ELEMENT_BYTES as u64;
        Self { rows: points, row_bytes, scales, features: params.features }
    }

    /// The address of feature `feature` of point `i`.
    #[inline(always)]
    pub(super) fn address(&self, i: u32, feature: u32) -> u64 {
        self.rows + i as u64 * self.row_bytes + (feature * ELEMENT_BYTES) as u64
    }

    /// The factor of point `i`.
    ///
    /// # Safety
    /// There is such a point, and its factor is known.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, i: u32) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(unsafe { ld_global_b32(self.scales + i as u64 * 4) })
    }

    /// 8 features of point `i`, without its factor.
    ///
    /// # Safety
    /// There are such features.
    #[inline(always)]
    pub(super) unsafe fn load<E: Element>(&self, i: u32, feature: u32) -> [f32; 8] {
        // SAFETY: the caller's.
        unpack::<E>(unsafe { ld_global_v4_b32(self.address(i, feature)) })
    }

    /// The sum over all features of `term(sum, feature of point i, the feature that other gives)`, in an order that
    /// depends on nothing but their number.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; there is such a point, and `other` gives 8 features from any multiple of 8 on.
    #[inline(always)]
    pub(super) unsafe fn sum<E: Element>(
        &self,
        lane: u32,
        i: u32,
        other: impl Fn(u32) -> [f32; 8],
        term: impl Fn(f32, f32, f32) -> f32,
    ) -> f32 {
        let mut sums = [0.0; 8];
        let mut feature = lane * STEP;
        // The loads of several steps are under way together.
        while feature + (UNROLL as u32 - 1) * WARP * STEP < self.features {
            let (mut rows, mut others) = ([[0.0; 8]; UNROLL], [[0.0; 8]; UNROLL]);
            for u in 0..UNROLL {
                let feature = feature + u as u32 * WARP * STEP;
                // SAFETY: the caller's.
                (rows[u], others[u]) = (unsafe { self.load::<E>(i, feature) }, other(feature));
            }
            for u in 0..UNROLL {
                for e in 0..8 {
                    sums[e] = term(sums[e], rows[u][e], others[u][e]);
                }
            }
            feature += UNROLL as u32 * WARP * STEP;
        }
        while feature < self.features {
            // SAFETY: the caller's.
            let (row, other) = (unsafe { self.load::<E>(i, feature) }, other(feature));
            for e in 0..8 {
                sums[e] = term(sums[e], row[e], other[e]);
            }
            feature += WARP * STEP;
        }
        let sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
        // SAFETY: the caller's.
        unsafe { shuffle::warp_sum(sum) }
    }

    /// The squared distance of point `i` to a centroid at `centroid`.
    ///
    /// # Safety
    /// As [`Points::sum`]; `centroid` is the address of as many f32.
    #[inline(always)]
    pub(super) unsafe fn distance_to<E: Element>(&self, lane: u32, i: u32, centroid: u64) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            let scale = self.scale(i);
            self.sum::<E>(
                lane,
                i,
                |feature| load_f32(centroid + feature as u64 * 4),
                |sum, x, c| {
                    let d = fma(scale, x, -c);
                    fma(d, d, sum)
                },
            )
        }
    }
}

/// 8 f32.
///
/// # Safety
/// They are at `address`, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn load_f32(address: u64) -> [f32; 8] {
    // SAFETY: the caller's.
    let [a, b] = unsafe { [ld_global_v4_b32(address), ld_global_v4_b32(address + 16)] };
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]].map(f32::from_bits)
}

/// 8 elements as f32.
#[inline(always)]
pub(super) fn unpack<E: Element>(words: [u32; 4]) -> [f32; 8] {
    let [a, b, c, d] = words.map(E::unpack);
    [a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]
}
