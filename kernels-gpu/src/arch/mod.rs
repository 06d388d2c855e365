//! The instructions the kernels are written in: one family per file, each function one instruction under its own name.
//!
//! What takes registers only and has an LLVM intrinsic is called through it; what takes a shared or global address, a pair
//! of 16-bit floats, or must keep its place in the program is inline assembly. Every instruction with `.sync` in its name
//! must be reached by all lanes of a warp together, those of [`barrier`] by all threads of a CTA: the functions are
//! `unsafe` for that reason, and for the addresses they take.

#[cfg(target_arch = "nvptx64")]
pub mod atomic;
#[cfg(target_arch = "nvptx64")]
pub mod barrier;
#[cfg(target_arch = "nvptx64")]
pub mod convert;
#[cfg(target_arch = "nvptx64")]
pub mod copy_sm80;
#[cfg(target_arch = "nvptx64")]
pub mod global;
#[cfg(target_arch = "nvptx64")]
pub mod half2;
#[cfg(target_arch = "nvptx64")]
pub mod ldmatrix;
pub mod math;
#[cfg(target_arch = "nvptx64")]
pub mod mma_sm80;
#[cfg(target_arch = "nvptx64")]
pub mod redux;
#[cfg(target_arch = "nvptx64")]
pub mod shared;
#[cfg(target_arch = "nvptx64")]
pub mod shuffle;
#[cfg(target_arch = "nvptx64")]
pub mod special_register;
#[cfg(target_arch = "nvptx64")]
pub mod vote;

/// Hides from the compiler how `value` was computed, at no instruction. Addresses derived from it are then recomputed
/// where they are used, by an add or an exclusive or, rather than each held in a register across a loop.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub fn opaque(mut value: u32) -> u32 {
    // SAFETY: the assembly is a comment.
    unsafe { core::arch::asm!("// {0}", inout(reg32) value, options(nomem, nostack, preserves_flags)) };
    value
}
