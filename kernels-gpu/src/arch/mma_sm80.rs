//! `mma.sync.m16n8k16`: a warp multiplies 16 x 16 by 16 x 8 and adds to f32.
//!
//! With `g = lane / 4` and `t = lane % 4`, elements of a pair in ascending order:
//!
//! ```text
//! A (16 x 16)  a0 (row g, k 2t..)  a1 (row g + 8, k 2t..)  a2 (row g, k 2t + 8..)  a3 (row g + 8, k 2t + 8..)
//! B (16 x 8)   b0 (k 2t.., column g)  b1 (k 2t + 8.., column g)
//! C (16 x 8)   c0, c1 (row g, columns 2t, 2t + 1)  c2, c3 (row g + 8, the same)
//! ```
//!
//! Both types are assembly: intrinsics take f16 operands as vectors that Rust cannot name, and assembly keeps the order
//! of loads and products that the kernels were written in, on which the number of live registers depends.

use core::arch::asm;

/// `c += a b` for bf16.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn mma_m16n8k16_f32_bf16(c: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{0}, {1}, {2}, {3}}}, \
            {{{4}, {5}, {6}, {7}}}, {{{8}, {9}}}, {{{0}, {1}, {2}, {3}}};",
            inout(reg32) c[0], inout(reg32) c[1], inout(reg32) c[2], inout(reg32) c[3], in(reg32) a[0],
            in(reg32) a[1], in(reg32) a[2], in(reg32) a[3], in(reg32) b[0], in(reg32) b[1],
            options(nomem, nostack, preserves_flags));
    }
}

/// `c += a b` for f16.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn mma_m16n8k16_f32_f16(c: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{{0}, {1}, {2}, {3}}}, \
            {{{4}, {5}, {6}, {7}}}, {{{8}, {9}}}, {{{0}, {1}, {2}, {3}}};",
            inout(reg32) c[0], inout(reg32) c[1], inout(reg32) c[2], inout(reg32) c[3], in(reg32) a[0],
            in(reg32) a[1], in(reg32) a[2], in(reg32) a[3], in(reg32) b[0], in(reg32) b[1],
            options(nomem, nostack, preserves_flags));
    }
}
