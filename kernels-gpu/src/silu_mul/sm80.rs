//! Kernels for compute capability 8.0 and later.

use super::gated;
use crate::arch::global::{ld_global_v4_b32, st_global_v4_b32};
use crate::arch::special_register::{cta, thread};
use crate::element::{Bf16, Element, F16};
use crate::params::SiluMulParams;
use crate::tile_size::SILU_MUL_THREADS;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn silu_mul<E: Element>(gate_up: u64, out: u64, params: &SiluMulParams) {
    let [row, tile, _] = cta();
    let piece = tile * SILU_MUL_THREADS + thread();
    if piece >= params.pieces {
        return;
    }
    let column = piece as u64 * 16;
    let gate = gate_up + row as u64 * params.gate_up_row_bytes + column;
    // SAFETY: the caller's; the piece lies in the row.
    unsafe {
        let (gate, up) = (ld_global_v4_b32(gate), ld_global_v4_b32(gate + params.pieces as u64 * 16));
        let pairs: [u32; 4] = core::array::from_fn(|i| {
            let ([a, b], [c, d]) = (E::unpack(gate[i]), E::unpack(up[i]));
            E::pack(gated(a, c), gated(b, d))
        });
        st_global_v4_b32(out + row as u64 * params.out_row_bytes + column, pairs);
    }
}

kernel! {
    fn silu_mul_bf16(gate_up: u64, out: u64, params: SiluMulParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { silu_mul::<Bf16>(gate_up, out, &params) }
    }
}

kernel! {
    fn silu_mul_f16(gate_up: u64, out: u64, params: SiluMulParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { silu_mul::<F16>(gate_up, out, &params) }
    }
}
