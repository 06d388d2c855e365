//! Where a thread stands.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.x"]
    fn sreg_ctaid_x() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.y"]
    fn sreg_ctaid_y() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.z"]
    fn sreg_ctaid_z() -> u32;
}

/// The thread within its CTA; kernels are launched with one-dimensional CTAs.
///
/// Every call reads the register anew, where the intrinsic's value would be kept: what follows from it then occupies no
/// register throughout a loop that does not use it.
#[inline(always)]
pub fn thread() -> u32 {
    let index: u32;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov.u32 {0}, %tid.x;", out(reg32) index, options(nomem, nostack, preserves_flags))
    };
    index
}

/// The CTA within its grid.
#[inline(always)]
pub fn cta() -> [u32; 3] {
    // SAFETY: reads registers.
    unsafe { [sreg_ctaid_x(), sreg_ctaid_y(), sreg_ctaid_z()] }
}
