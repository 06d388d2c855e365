//! Block selection by coverage: of every row of block scores, the highest until a share of the row's sum is reached
//! (XAttention, Xu et al. 2025, arXiv 2503.16428).
//!
//! [`rule`] says which blocks of a row rank by their scores; the others are forced or no candidates. With `need = threshold *
//! sum of the row` less what forced blocks cover, the ranked blocks are taken in descending order, ties by lowest index,
//! while the sum of those before is below the need. Sums are in fixed point ([`crate::select::fixed`]), shares of them
//! exact: which blocks are taken depends on the row alone.
//!
//! # Two sizes of rows
//! *Up to 1024 blocks*, a warp has the row in its registers, 32 scores and their fixed-point weights per lane, and finds
//! the smallest score that is taken bit by bit, from the top: the bit is set if the scores from there on still sum to the
//! need. That is 31 sums over the row, of registers; no shared memory, no barrier. A row is read once.
//!
//! *Beyond*, a CTA of 8 warps makes a radix cut by sum ([`crate::select::radix`]) and lists the blocks
//! ([`crate::select::compact`]); the row is read four times, three of them from the second-level cache.
//!
//! # Instructions
//! Executed by the emulator for one row, in warps of 32 lanes; registers by ptxas 13.0.88 for sm_80, none spilled.
//!
//! | blocks | 128 | 512 | 1024 | 2048 | 8192 | registers |
//! |---|---|---|---|---|---|---|
//! | warp | 2460 | 3730 | 6100 | | | 128 |
//! | CTA | | | | 24 700 | 63 300 | 71 |
//!
//! The CTA's are 15 thousand for clearing and summing the bins of three digits, and 6 per block. None of this has been timed.
//!
//! Long rows come first: CTAs take the query blocks of a head from the last to the first.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod cta_row;
mod rule;
#[cfg(target_arch = "nvptx64")]
mod sm80;
#[cfg(target_arch = "nvptx64")]
mod warp_row;
