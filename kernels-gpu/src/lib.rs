//! lacuna's device kernels.
//!
//! The crate is compiled twice: for `nvptx64-nvidia-cuda`, where the kernels become the PTX that `lacuna` ships, and as an
//! ordinary library for the host, which finds here what both sides must agree on ([`params`], [`tile_size`], [`kernel`],
//! [`sample::weight`]) and tests the arithmetic that needs no GPU.
//!
//! One folder per operation, in it a file per architecture; `forward` holds what dense and block-sparse attention share.
//! The instructions are in `arch`, one family per file.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(abi_ptx, abi_unadjusted, asm_experimental_arch, link_llvm_intrinsics)
)]
#![cfg_attr(target_arch = "nvptx64", allow(internal_features))]

#[cfg(target_arch = "nvptx64")]
#[macro_use]
mod kernel_macro;

pub mod block_grid;
pub mod kernel;
pub mod params;
pub mod sample;
pub mod select;
pub mod tile_size;

#[cfg(any(target_arch = "nvptx64", test))]
mod antidiagonal_score;
#[cfg(any(target_arch = "nvptx64", test))]
mod arch;
#[cfg(target_arch = "nvptx64")]
mod argmax;
#[cfg(target_arch = "nvptx64")]
mod block_mask;
#[cfg(target_arch = "nvptx64")]
mod block_pool;
#[cfg(any(target_arch = "nvptx64", test))]
mod block_select;
#[cfg(any(target_arch = "nvptx64", test))]
mod block_sparse_attention;
#[cfg(any(target_arch = "nvptx64", test))]
mod column_mass;
#[cfg(target_arch = "nvptx64")]
mod decode_attention;
#[cfg(any(target_arch = "nvptx64", test))]
mod dense_attention;
#[cfg(target_arch = "nvptx64")]
mod element;
#[cfg(any(target_arch = "nvptx64", test))]
mod flex_prefill;
#[cfg(target_arch = "nvptx64")]
mod forward;
#[cfg(target_arch = "nvptx64")]
mod gather_rows;
#[cfg(any(target_arch = "nvptx64", test))]
mod gemm;
#[cfg(target_arch = "nvptx64")]
mod grid;
#[cfg(any(target_arch = "nvptx64", test))]
mod k_means;
#[cfg(any(target_arch = "nvptx64", test))]
mod key_tiles;
#[cfg(target_arch = "nvptx64")]
#[cfg(any(target_arch = "nvptx64", test))]
mod mask;
#[cfg(target_arch = "nvptx64")]
mod merge_state;
#[cfg(any(target_arch = "nvptx64", test))]
mod probe;
#[cfg(target_arch = "nvptx64")]
mod product;
#[cfg(target_arch = "nvptx64")]
mod rms_norm;
#[cfg(any(target_arch = "nvptx64", test))]
mod rope;
#[cfg(target_arch = "nvptx64")]
mod seqlen;
#[cfg(any(target_arch = "nvptx64", test))]
mod silu_mul;
#[cfg(any(target_arch = "nvptx64", test))]
mod smem;
#[cfg(any(target_arch = "nvptx64", test))]
mod softmax;
#[cfg(target_arch = "nvptx64")]
mod top_k;
#[cfg(any(target_arch = "nvptx64", test))]
mod vertical_slash;

#[cfg(target_arch = "nvptx64")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        // SAFETY: ends the kernel with an error.
        unsafe { core::arch::asm!("trap;", options(nostack)) }
    }
}
