//! The block scores of XAttention (Xu et al. 2025, arXiv 2503.16428): the sums over blocks of an attention map between
//! groups of `stride` tokens, whose logits are means over the groups' anti-diagonals. In one launch, without the map.
//!
//! # The product
//! The logit of query group `i` and key group `j` is a sum over `s < stride` of `q[i stride + stride - 1 - s] . k[j stride + s]`:
//! a matrix product whose inner dimension is `stride * head_dim`. Folding costs nothing: a slice of 64 features of it has
//! for rows every `stride`-th token, read where it lies, 16 bytes at a time, zeros where tokens are missing.
//!
//! # Tiling
//! A CTA owns `tile_m = 128` groups of queries of one head and walks the groups of keys in tiles of `tile_n = 256` from the
//! first to the last that it sees. It is persistent: the grid fills the device once, and CTA `i` takes tiles `i`, `i + ctas`,
//! ... of a table that has the longest first, heads of a KV head side by side, so that CTAs at work at one time read
//! the same keys.
//!
//! # Thread mapping
//! 8 warps, each with 64 x 64 logits in registers: 2 along the queries, 4 along the keys. What a warp has of the keys is a
//! *strip*, and a strip has running maxima and sums of its own ([`block_sums`]): warps exchange nothing until the tile is
//! done. Fragments are those of [`crate::arch::mma_sm80`].
//!
//! # Sums of blocks
//! A block's share of a row needs the row's maximum and sum, which are known at the end. Until then the sum over the block
//! of `2^(x - m)` waits in scratch beside the `m` that it was made with, and at the end ([`finish`]) the score is the sum
//! over the block's rows, in fixed order, of `sum * 2^(m - m_row) / sum_row`. The products are never made twice, and the
//! map is never written: scratch is `128 * 4 / block` bytes per key and CTA, and a 16th to half of that again for the maxima.
//! Which CTA takes which tile, or how many there are, changes nothing.
//!
//! # Schedule
//! ```text
//! wait for slice i; barrier; begin slice i + 2; logits += Q K^T        (one barrier per slice, 3 stages)
//! after stride * head_dim / 64 slices: block sums, while the next tile's first slices come
//! ```
//!
//! # Shared memory
//! Three stages of 128 rows of queries and 256 of keys, 128 bytes each, laid out as [`crate::smem`] says; behind them
//! maxima and sums of the rows, for the exchange at the end of a tile.
//!
//! # Machine code
//! Of the loop over slices, per warp, by ptxas 13.0.88 for sm_80, bf16 and f16 alike: 273 instructions, of which 128 are HMMA,
//! 32 LDSM, 12 LDGSTS and 1 BAR; 254 registers. (270 and 255 for blocks of 4 groups, which keep 9 words on the stack, none of
//! them in the loop.) The 128 products take 1024 cycles of an A100's tensor core, which two warps share: everything else
//! issues in their shadow, block sums excepted. Those are some 1000 instructions and 130 exponentials per warp and tile of
//! keys, 16 slices at stride 8 and head dim 128. None of this has been timed.
//!
//! Parameters: see [`crate::kernel`].

mod groups;

#[cfg(target_arch = "nvptx64")]
mod block_sums;
#[cfg(target_arch = "nvptx64")]
mod finish;
#[cfg(target_arch = "nvptx64")]
mod slices;
#[cfg(target_arch = "nvptx64")]
mod sm80;
