//! From a bitmask of blocks, and the number of bits in each of its rows, to lists in CSR form.
//!
//! A search keeps a bit per block until every row is decided: rows are decided in any order, by any CTA, and only their
//! lengths say where their lists begin.
//!
//! `block_mask_scan`, one CTA of 32 warps: a warp owns a run of rows, sums its counts, and after one barrier scans them
//! again from where the warps before it end. 32 heads at 128k tokens in blocks of 128 are 32k rows, 32 steps of a warp.
//!
//! `block_mask_fill`, a warp per row: 32 words at a time, a lane each; then word by word, a lane per bit, which is stored
//! behind the set bits below it, so that stores of a warp are side by side.
//!
//! Parameters: see [`crate::kernel`].

mod sm80;
