//! Kernels for compute capability 8.0 and later.

use crate::arch::global::{
    ld_global_b32, ld_global_v2_b32, ld_global_v4_b32, st_global_b32, st_global_v2_b32, st_global_v4_b32,
};
use crate::arch::math::{div_rem, ex2, fma, lg2, rcp};
use crate::arch::shuffle;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::Thread;
use crate::params::MergeParams;
use crate::tile_size::{MERGE_ROWS, WARP};

/// An element type of rows in global memory; `N`, 2 or 4, elements are moved at once.
pub(crate) trait RowElement {
    /// Bytes of an element.
    const BYTES: u32;

    /// Loads `N` elements.
    ///
    /// # Safety
    /// `address` is a multiple of their size inside a buffer.
    unsafe fn load<const N: usize>(address: u64) -> [f32; N];

    /// Stores `N` elements, rounded to nearest even.
    ///
    /// # Safety
    /// As [`RowElement::load`], and no other thread accesses them.
    unsafe fn store<const N: usize>(address: u64, values: [f32; N]);
}

/// IEEE single precision.
pub(crate) struct F32;

impl RowElement for F32 {
    const BYTES: u32 = 4;

    #[inline(always)]
    unsafe fn load<const N: usize>(address: u64) -> [f32; N] {
        let mut values = [0.0; N];
        // SAFETY: the caller's.
        unsafe {
            match N {
                2 => values.copy_from_slice(&ld_global_v2_b32(address).map(f32::from_bits)),
                4 => values.copy_from_slice(&ld_global_v4_b32(address).map(f32::from_bits)),
                _ => const { assert!(N == 2 || N == 4) },
            }
        }
        values
    }

    #[inline(always)]
    unsafe fn store<const N: usize>(address: u64, values: [f32; N]) {
        // SAFETY: the caller's.
        unsafe {
            match N {
                2 => st_global_v2_b32(address, [values[0], values[1]].map(f32::to_bits)),
                _ => {
                    let all = [values[0], values[1], values[2], values[3]];
                    st_global_v4_b32(address, all.map(f32::to_bits));
                }
            }
        }
    }
}

impl<E: Element> RowElement for E {
    const BYTES: u32 = 2;

    #[inline(always)]
    unsafe fn load<const N: usize>(address: u64) -> [f32; N] {
        let mut values = [0.0; N];
        // SAFETY: the caller's.
        unsafe {
            match N {
                2 => values.copy_from_slice(&E::unpack(ld_global_b32(address))),
                _ => {
                    let [a, b] = ld_global_v2_b32(address).map(E::unpack);
                    values.copy_from_slice(&[a[0], a[1], b[0], b[1]]);
                }
            }
        }
        values
    }

    #[inline(always)]
    unsafe fn store<const N: usize>(address: u64, values: [f32; N]) {
        // SAFETY: the caller's.
        unsafe {
            match N {
                2 => st_global_b32(address, E::pack(values[0], values[1])),
                _ => {
                    let pairs = [E::pack(values[0], values[1]), E::pack(values[2], values[3])];
                    st_global_v2_b32(address, pairs);
                }
            }
        }
    }
}

/// The parts of one row.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    /// The row in the first part.
    pub(crate) out: u64,
    pub(crate) out_step_bytes: u64,
    /// Its LSE.
    pub(crate) lse: u64,
    pub(crate) lse_step_bytes: u64,
    pub(crate) count: u32,
}

impl Parts {
    /// The LSE of part `part`.
    ///
    /// # Safety
    /// There is such a part.
    #[inline(always)]
    unsafe fn lse(&self, part: u32) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(unsafe { ld_global_b32(self.lse + part as u64 * self.lse_step_bytes) })
    }

    /// Merges the parts of type `P` into the row of type `O` at `out`, and their LSE into `softmax_lse` unless that is 0.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; the addresses are those of rows of `32 N` elements.
    #[inline(always)]
    pub(crate) unsafe fn merge<P: RowElement, O: RowElement, const N: usize>(
        self,
        lane: u32,
        out: u64,
        softmax_lse: u64,
    ) {
        let column = (lane * N as u32) as u64;
        // SAFETY: the caller's.
        unsafe {
            let mut max = f32::NEG_INFINITY;
            for first in (0..self.count).step_by(WARP as usize) {
                // Past the end, the first part once more.
                let part = first + lane;
                max = max.max(self.lse(if part < self.count { part } else { 0 }));
            }
            let max = shuffle::warp_max(max);
            let mut sum = 0.0;
            let mut merged = [0.0; N];
            for part in 0..self.count {
                let lse = self.lse(part);
                if lse == f32::NEG_INFINITY {
                    continue;
                }
                let weight = ex2((lse - max) * core::f32::consts::LOG2_E);
                let address = self.out + part as u64 * self.out_step_bytes + column * P::BYTES as u64;
                let row = P::load::<N>(address);
                sum += weight;
                for i in 0..N {
                    merged[i] = fma(weight, row[i], merged[i]);
                }
            }
            // lg2(0) is -inf: a row that saw nothing.
            let normalizer = if sum == 0.0 { 0.0 } else { rcp(sum) };
            O::store(out + column * O::BYTES as u64, merged.map(|x| x * normalizer));
            if softmax_lse != 0 && lane == 0 {
                let lse = fma(lg2(sum), core::f32::consts::LN_2, max);
                st_global_b32(softmax_lse, lse.to_bits());
            }
        }
    }
}

/// A warp merges one row.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn merge_state<P: RowElement, O: RowElement, const N: usize>(
    part_out: u64,
    part_lse: u64,
    out: u64,
    softmax_lse: u64,
    params: &MergeParams,
) {
    // SAFETY: the caller's.
    unsafe {
        let thread = Thread::current();
        let row = cta()[0] * MERGE_ROWS + thread.warp;
        if row >= params.total_q * params.num_heads {
            return;
        }
        let (token, head) = div_rem(row, params.num_heads);
        let parts = Parts {
            out: part_out + params.part.offset(token, head, P::BYTES),
            out_step_bytes: params.part_step * P::BYTES as u64,
            lse: part_lse + (head as u64 * params.part_lse_head + token as u64) * 4,
            lse_step_bytes: params.part_lse_step * 4,
            count: params.num_parts,
        };
        let lse = head as u64 * params.total_q as u64 + token as u64;
        let lse = if softmax_lse == 0 { 0 } else { softmax_lse + lse * 4 };
        parts.merge::<P, O, N>(thread.lane, out + params.out.offset(token, head, O::BYTES), lse);
    }
}

macro_rules! merge_state {
    ($($name:ident: $part:ty, $out:ty, $n:literal;)*) => {$(
        kernel! {
            fn $name(part_out: u64, part_lse: u64, out: u64, softmax_lse: u64, params: MergeParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { merge_state::<$part, $out, $n>(part_out, part_lse, out, softmax_lse, &params) }
            }
        }
    )*};
}

merge_state! {
    merge_state_bf16_d64: Bf16, Bf16, 2;
    merge_state_bf16_d128: Bf16, Bf16, 4;
    merge_state_f16_d64: F16, F16, 2;
    merge_state_f16_d128: F16, F16, 4;
    merge_state_f32_d64: F32, F32, 2;
    merge_state_f32_d128: F32, F32, 4;
    merge_state_bf16_d64_f32_parts: F32, Bf16, 2;
    merge_state_bf16_d128_f32_parts: F32, Bf16, 4;
    merge_state_f16_d64_f32_parts: F32, F16, 2;
    merge_state_f16_d128_f32_parts: F32, F16, 4;
}
