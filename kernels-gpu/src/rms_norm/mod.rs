//! RMSNorm of rows, with or without a residual addition before it.
//!
//! ```text
//! x = round(x + branch)        out = weight * round(x / sqrt(mean(x^2) + eps)), rounded again
//! ```
//!
//! # Thread mapping
//! A CTA has a row. Thread `t` of `T` holds the pieces `t, t + T, ...` of 16 bytes of it in registers, as they lie in
//! memory, so that every byte is read once and written once: up to 4 pieces of 256 threads (8192 features), or up to 8 of
//! 1024 (65536). The weights of short rows are fetched with the row, so that a decode step, whose weights come from
//! memory and not from a cache, waits for memory once.
//!
//! # Numerics
//! Squares are summed in f32: along the pieces of a thread, low and high halves of its pairs apart, then over the lanes,
//! then over the warps. The order depends on `hidden` alone. Mean, root and quotient are rounded as IEEE says. A pair of
//! features is multiplied by its weights in one instruction: products of 16-bit numbers are exact in f32, so that rounding
//! them at once gives the same bits, but for subnormal bf16, which f32 might round twice.
//!
//! # Numbers that are not finite
//! A sum of squares that is finite has no NaN and no infinity in it: the elements are looked at only if it is not.
//!
//! # Shared memory
//! A partial sum per warp.
//!
//! # Machine code
//! By ptxas 13.0.88 for sm_80, bf16 (f16 is the same), nothing spilled; instructions of a thread that has as many pieces as it
//! has room for, without those that look for numbers which are not finite:
//!
//! | kernel | registers | instructions | LDG and STG of 16 bytes | instructions per 16 bytes of `x` |
//! |---|---|---|---|---|
//! | `rms_norm_bf16` | 55 | 319 | 8 and 4 | 80 |
//! | `rms_norm_bf16_add` | 64 | 473 | 12 and 8 | 118 |
//! | `rms_norm_bf16_wide` | 64 | 579 | 16 and 8 | 72 |
//! | `rms_norm_bf16_wide_add` | 64 | 883 | 24 and 16 | 110 |
//!
//! All loads of a short row are issued before the first use of one. By these counts rows of 4096 features take less than half of
//! the issue slots of an H100's SM at the speed of its memory. None of this has been timed.
//!
//! Parameters: see [`crate::kernel`].

mod sm80;
