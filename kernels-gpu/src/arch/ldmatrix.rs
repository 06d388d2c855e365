//! `ldmatrix`: four 8 x 8 matrices of 16-bit elements from shared memory, spread over a warp as `mma` wants them.
//!
//! Lane `l` gives the address of row `l % 8` of matrix `l / 8`. Of each matrix it receives the pair at row `l / 4`, columns
//! `2 (l % 4)` and the next; with `trans`, of the transpose.

use core::arch::asm;

/// Loads four matrices.
///
/// # Safety
/// Reached by all lanes of the warp; addresses are multiples of 16 inside shared memory.
#[inline(always)]
pub unsafe fn ldmatrix_x4(row: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) a,
            out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) row, options(readonly, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Loads four matrices, each transposed.
///
/// # Safety
/// As [`ldmatrix_x4`].
#[inline(always)]
pub unsafe fn ldmatrix_x4_trans(row: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{{0}, {1}, {2}, {3}}}, [{4}];", out(reg32) a,
            out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) row, options(readonly, nostack, preserves_flags));
    }
    [a, b, c, d]
}
