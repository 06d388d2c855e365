//! Kernels for compute capability 8.0 and later.

use crate::arch::atomic::red_global_min_u32;

use crate::arch::global::{ld_global_v4_b32, st_global_v4_b32};
use crate::arch::math::{fma, sqrt};
use crate::arch::shared::{dynamic_smem, ld_shared_f32, st_shared_b32};
use crate::arch::shuffle::{bfly, quad_sum, warp_sum};
use crate::arch::special_register::{cta, thread};
use crate::arch::{barrier, opaque};
use crate::element::{Bf16, Element, F16};
use crate::params::RmsNormParams;
use crate::tile_size::{RMS_NORM, RMS_NORM_LOADS, RMS_NORM_WIDE, RmsNormTile, WARP};

/// Pieces whose loads are under way together.
const LOADS: usize = RMS_NORM_LOADS as usize;

/// 8 features as they lie in memory.
type Piece = [u32; 4];

/// The pieces of a thread.
#[derive(Clone, Copy)]
struct Pieces {
    thread: u32,
    threads: u32,
    /// Of the row.
    count: u32,
}

impl Pieces {
    /// The byte offset of the thread's piece `i`, if the row has it.
    #[inline(always)]
    fn offset(self, i: usize) -> Option<u64> {
        let piece = self.thread + i as u32 * self.threads;
        if piece < self.count { Some(piece as u64 * 16) } else { None }
    }

    /// Loads the pieces from `first` on; those that the row does not have are zeros.
    ///
    /// # Safety
    /// `row` is the address of a row.
    #[inline(always)]
    unsafe fn load(self, row: u64, first: usize) -> [Piece; LOADS] {
        let mut pieces = [[0; 4]; LOADS];
        for (i, piece) in pieces.iter_mut().enumerate() {
            if let Some(offset) = self.offset(first + i) {
                // SAFETY: the caller's; the piece lies in the row.
                *piece = unsafe { ld_global_v4_b32(row + offset) };
            }
        }
        pieces
    }
}

/// The sums of the features of two pieces, rounded.
#[inline(always)]
fn add<E: Element>(a: Piece, b: Piece) -> Piece {
    core::array::from_fn(|i| {
        let ([a0, a1], [b0, b1]) = (E::unpack(a[i]), E::unpack(b[i]));
        E::pack(a0 + b0, a1 + b1)
    })
}

/// The sum of `value` over the CTA, the same bits in every thread.
///
/// # Safety
/// Reached once by all threads of a CTA of `WARPS` warps, 8 or 32, that has as many words of shared memory.
#[inline(always)]
unsafe fn cta_sum<const WARPS: u32>(value: f32) -> f32 {
    const { assert!(WARPS == 8 || WARPS == 32) };
    let (warp, lane) = (thread() / WARP, thread() % WARP);
    // SAFETY: the caller's; a warp writes its own word before the barrier, all words are read after it.
    unsafe {
        let sum = warp_sum(value);
        if lane == 0 {
            st_shared_b32(dynamic_smem() + warp * 4, sum.to_bits());
        }
        barrier::sync();
        let sum = quad_sum(ld_shared_f32(dynamic_smem() + lane % WARPS * 4));
        let sum = sum + bfly::<4>(sum);
        if WARPS == 8 {
            return sum;
        }
        let sum = sum + bfly::<8>(sum);
        sum + bfly::<16>(sum)
    }
}

/// A CTA normalises a row whose pieces a thread holds in `GROUPS` groups of [`LOADS`].
///
/// # Safety
/// Launched as [`crate::kernel`] says; `branch` is not read unless `ADD`.
#[inline(always)]
unsafe fn rms_norm<E: Element, const ADD: bool, const GROUPS: usize, const WARPS: u32>(
    x: u64,
    branch: u64,
    weight: u64,
    out: u64,
    not_finite: u64,
    params: &RmsNormParams,
) {
    const {
        let RmsNormTile { threads, pieces, .. } = if GROUPS == 1 { RMS_NORM } else { RMS_NORM_WIDE };
        assert!(threads == WARPS * WARP && pieces as usize == GROUPS * LOADS);
    };
    let row = cta()[0];
    let pieces = Pieces { thread: thread(), threads: WARPS * WARP, count: params.hidden / 8 };
    let x = x + row as u64 * params.x_row_bytes;
    let branch = branch + row as u64 * params.branch_row_bytes;
    let out = out + row as u64 * params.out_row_bytes;
    // SAFETY: the caller's; a thread reads and writes its own pieces of the row.
    unsafe {
        let mut values = [[[0; 4]; LOADS]; GROUPS];
        let mut weights = [[0; 4]; LOADS];
        for (group, values) in values.iter_mut().enumerate() {
            let first = group * LOADS;
            *values = pieces.load(x, first);
            let mut branches = [[0; 4]; LOADS];
            if ADD {
                branches = pieces.load(branch, first);
            }
            if GROUPS == 1 {
                weights = pieces.load(weight, first);
            }
            if ADD {
                for (i, value) in values.iter_mut().enumerate() {
                    if let Some(offset) = pieces.offset(first + i) {
                        *value = add::<E>(*value, branches[i]);
                        st_global_v4_b32(x + offset, *value);
                    }
                }
            }
        }

        // Keeps the loads of the weights before it: the assembler would have them wait for the row.
        barrier::sync_warp();
        let mut squares = [0.0; 2];
        for group in 0..GROUPS {
            for i in 0..LOADS {
                // Beyond the row no thread has a piece.
                if ((group * LOADS + i) as u32) * pieces.threads < pieces.count {
                    for j in 0..4 {
                        let [low, high] = E::unpack(values[group][i][j]);
                        squares = [fma(low, low, squares[0]), fma(high, high, squares[1])];
                    }
                }
            }
        }
        let sum = cta_sum::<WARPS>(squares[0] + squares[1]);
        if not_finite != 0 && !sum.is_finite() {
            // Bits of magnitudes in the upper half: those of infinities and NaN are the largest.
            let mut largest = 0;
            for group in 0..GROUPS {
                for i in 0..LOADS {
                    for j in 0..4 {
                        let pair = opaque(values[group][i][j]);
                        largest = largest.max(pair & 0x7fff_ffff).max(pair << 16 & 0x7fff_ffff);
                    }
                }
            }
            if largest >= E::EXPONENTS & 0x7fff_0000 {
                red_global_min_u32(not_finite, params.first_token + row);
            }
        }
        let scale = 1.0 / sqrt(sum / params.hidden as f32 + params.eps);

        for (group, values) in values.iter().enumerate() {
            let first = group * LOADS;
            if GROUPS > 1 {
                weights = pieces.load(weight, first);
            }
            for (i, value) in values.iter().enumerate() {
                if let Some(offset) = pieces.offset(first + i) {
                    // Unpacked once more, rather than kept as f32 in twice the registers.
                    let pairs = core::array::from_fn(|j| {
                        let [low, high] = E::unpack(opaque(value[j]));
                        E::mul(weights[i][j], E::pack(low * scale, high * scale))
                    });
                    st_global_v4_b32(out + offset, pairs);
                }
            }
        }
    }
}

macro_rules! rms_norm {
    ($($plain:ident, $add:ident: $element:ty, $groups:literal, $warps:literal;)*) => {$(
        kernel! {
            fn $plain(x: u64, weight: u64, out: u64, not_finite: u64, params: RmsNormParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { rms_norm::<$element, false, $groups, $warps>(x, 0, weight, out, not_finite, &params) }
            }
        }

        kernel! {
            fn $add(x: u64, branch: u64, weight: u64, out: u64, not_finite: u64, params: RmsNormParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { rms_norm::<$element, true, $groups, $warps>(x, branch, weight, out, not_finite, &params) }
            }
        }
    )*};
}

rms_norm! {
    rms_norm_bf16, rms_norm_bf16_add: Bf16, 1, 8;
    rms_norm_bf16_wide, rms_norm_bf16_wide_add: Bf16, 2, 32;
    rms_norm_f16, rms_norm_f16_add: F16, 1, 8;
    rms_norm_f16_wide, rms_norm_f16_wide_add: F16, 2, 32;
}
