//! Matrix products: `out = x weight^T + bias`, operands of 16 bits, sums in f32, rounded once.
//!
//! # Tiles
//! | kernel | rows | warps | of a warp | stages | shared memory | CTAs of a tile |
//! |---|---|---|---|---|---|---|
//! | `8x16` | up to 8 | 4 over the features | 8 x 16 | 6 for each warp | 72 KB | 1 |
//! | `16x64` | up to 16 | 1 x 4 | 16 x 16 | 6 | 60 KB | up to 16 |
//! | `64x128` | more | 2 x 2 | 32 x 64 | 3 | 72 KB | up to 16 |
//! | `128x128` | many | 2 x 2 | 64 x 64 | 3 | 96 KB | 1 |
//! | `128x256` | many | 2 x 4 | 64 x 64 | 2 | 96 KB | 1 |
//!
//! The launcher chooses. Few rows are a matter of bytes: the weight passes by once, and as much of it is under way as memory
//! needs to be busy. Many rows are a matter of products: large tiles ask shared memory and the second-level cache for less.
//! All tiles fit the 99 KB that compute capabilities 8.6 and 8.9 give a CTA.
//!
//! # Main loop
//! Features pass by in steps of 64, a row of a tile being one round of the banks ([`crate::smem`]). A step is four slices of
//! 16 features, one product deep. While a slice is multiplied the operands of the next come from shared memory to registers,
//! and a part of the copies of a later step begins; the barrier that says that a step is there stands a slice before the end
//! of the step before it, so that the products of its last slice cover the loads of the next one's first. Rows, columns and
//! features that do not exist are copied as zeros, for which nothing is read; so are the steps behind the last, which the
//! loop begins to copy without a branch.
//!
//! Up to 8 rows have a loop of their own ([`short`]): the weight is the operand of 16 rows there, and the warps do not meet
//! before the end.
//!
//! # Thread mapping
//! Fragments are those of [`crate::arch::mma_sm80`]: with `g = lane / 4` and `t = lane % 4` a lane holds rows
//! `16 i + 8 half + g` and columns `8 j + 2 t` and the next of its warp's part. Outputs of 16 bits become pieces of rows of 16
//! bytes by way of the ring, each warp in a place of its own; those of f32 are written from the registers, pairs of four
//! lanes being the 32 bytes that memory writes at once, or one by one where rows are not aligned.
//!
//! # Sums
//! One accumulator takes all features of a CTA in ascending order, 16 at a time (of 8 x 16: all those of a warp, then the warps in
//! order). Tensor cores cut what they add to about 24 bits: an error of at most `in_features / 16` units of 2^-23 of the sum of
//! magnitudes, far below the rounding of a 16-bit output.
//!
//! # Features shared out
//! CTAs that share a tile leave their sums in a workspace, and draw a ticket ([`crate::grid`]). The one that comes last
//! adds up all of them in the order of their features, whatever the order they came in, and sets the ticket back to 0: the
//! next launch finds everything as this one did, in a graph too. Of rows that do not exist nothing is stored.
//!
//! # Machine code
//! Of the main loop, per step and warp, by ptxas 13.0.88 for sm_80, bf16 (f16 is the same); no kernel spills:
//!
//! | kernel | registers | loop | HMMA | LDSM | LDGSTS | loop / HMMA |
//! |---|---|---|---|---|---|---|
//! | `8x16` | 56 | 80 | 4 | 6 | 6 | 20 |
//! | `16x64` | 60 | 72 | 8 | 8 | 5 | 9 |
//! | `64x128` | 160 | 172 | 64 | 24 | 12 | 2.7 |
//! | `128x128` | 228 | 258 | 128 | 32 | 16 | 2.0 |
//! | `128x256` | 250 | 249 | 128 | 32 | 12 | 1.9 |
//!
//! None of this has been timed; what follows is a model. On an SM of an H100 a step of 128 x 256 takes the tensor cores 1024
//! cycles at their peak, and 1640 if `mma.sync` reaches 62 % of it; 500 cycles of issue and 1410 of shared memory pass
//! meanwhile, and 48 KB come from the second-level cache, 6.7 TB/s for all SMs: it is likely to be what limits. 4096 x 4096 x
//! 4096 would run at 450 to 510 TFLOP/s, about 60 % of what `wgmma` gives. On an A100 the tensor cores limit, 2050 cycles per
//! step: 270 TFLOP/s of 312.
//!
//! Of the weight, the kernels for few rows have 40 KB per CTA under way (64 x 128: 32 KB). An H100 needs 20 KB per SM (3.35 TB/s,
//! 800 ns); 128 CTAs of 8 x 16 on the smallest weight of Llama 3.2 1B, [2048, 2048], have twice that, and instructions take 15 %
//! of the issue slots. Such a product should take as long as its bytes, and some microseconds for its launch; where CTAs share
//! tiles, one or two more until the last has the sum.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod copy;
#[cfg(target_arch = "nvptx64")]
mod epilogue;
#[cfg(target_arch = "nvptx64")]
mod mainloop;
mod raster;
#[cfg(target_arch = "nvptx64")]
mod short;
#[cfg(target_arch = "nvptx64")]
mod sm80;
#[cfg(target_arch = "nvptx64")]
mod split;

/// The pointers of a launch.
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
struct Tensors {
    x: u64,
    weight: u64,
    bias: u64,
    out: u64,
    partials: u64,
    tickets: u64,
}
