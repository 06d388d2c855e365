//! The kernel for compute capability 8.0 and later.

use crate::arch::global::{ld_global_b32, ld_global_v4_b32, st_global_v4_b32};
use crate::arch::math::div_rem;
use crate::arch::special_register::{cta, thread};
use crate::params::GatherRowsParams;
use crate::tile_size::{GATHER_ROWS_PER_THREAD, GATHER_THREADS};

const PER_THREAD: usize = GATHER_ROWS_PER_THREAD as usize;

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn gather(src: u64, index: u64, count: u64, out: u64, params: &GatherRowsParams) {
    let [tile, head, _] = cta();
    // SAFETY: the caller's; rows below the count have an index and a place, and those of the source are checked.
    unsafe {
        let count = if count == 0 { params.rows } else { ld_global_b32(count).min(params.rows) };
        let (side_by_side, _) = div_rem(GATHER_THREADS, params.pieces);
        let (row, piece) = div_rem(thread(), params.pieces);
        let first = tile * (side_by_side * GATHER_ROWS_PER_THREAD) + row;
        if row >= side_by_side {
            return;
        }
        let mut values = [[0; 4]; PER_THREAD];
        for u in 0..PER_THREAD {
            let row = first + u as u32 * side_by_side;
            if row < count {
                let token = ld_global_b32(index + row as u64 * 4);
                if token < params.tokens {
                    let bytes = params.src.offset(token, head, 1) + piece as u64 * 16;
                    values[u] = ld_global_v4_b32(src + bytes);
                }
            }
        }
        for u in 0..PER_THREAD {
            let row = first + u as u32 * side_by_side;
            if row < count {
                let bytes = params.out.offset(row, head, 1) + piece as u64 * 16;
                st_global_v4_b32(out + bytes, values[u]);
            }
        }
    }
}

kernel! {
    fn gather_rows(src: u64, index: u64, count: u64, out: u64, params: GatherRowsParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { gather(src, index, count, out, &params) }
    }
}
