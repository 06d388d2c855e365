//! A random token of the softmax at a temperature, of those that top-k, top-p and min-p keep.
//!
//! # Rule
//! In descending order of the logits, of equals the lowest index first: top-k keeps the first `k` tokens, top-p the fewest
//! of those that have its share of their weight, and min-p of these the ones whose weight is at least its share of the
//! likeliest one's. Weights and the arithmetic of shares are [`weight`]'s. What is kept is drawn from by the inverse of the
//! cumulative weight, in ascending order of the indices. All sums are integers: the token depends on nothing but the row
//! and the number that it is drawn with.
//!
//! # Kernels
//! ```text
//! argmax     the likeliest token (another operation's kernel)
//! histogram  top-k or top-p: weights by level; the last CTA finds the level in which the cut falls
//! cut        top-k or top-p: lists the tokens down to that level; the last CTA finds the cut among them
//! draw       sums of the kept weights by slice; the last CTA finds the slice, and in it the token
//! ```
//! Rows are cut into slices of 4096 logits, a CTA of 1024 threads each. Nothing sorts the vocabulary. A level is a
//! forty-eighth of a halving of the weight, so that a level at which a cut falls holds few tokens; up to 8192 tokens of
//! this level and above are listed, by a place that warps take from a counter, in whatever order: the cut is by keys, and
//! that among ties by indices. Where there are more, as in a flat distribution, the last CTA looks for the cut in the whole
//! row: slower, and the same.
//!
//! A row with a logit that is not finite has `u32::MAX` for its likeliest token, and all kernels leave it at that.
//!
//! The workspace is at the end what it was at the start, so that a captured graph can be launched again.
//!
//! # Cost
//! Instructions of warps for one row of 128 256 normal logits, as the emulator counts them: histogram 393 thousand, cut 175
//! (top-k of 50) to 263 thousand (top-p of 0.95), draw 445 thousand where nothing is cut and 290 where little is kept, spread
//! over 32 CTAs; the selection in the whole row of a flat distribution, by one CTA, up to 1.2 million. 32, 53 and 32
//! registers by ptxas 13.0.88 for sm_80, none on the stack.
//!
//! None of this has been timed. Expected on a large GPU, with the row in the second-level cache: 3 us for argmax, 5 for each
//! of histogram and draw, 10 for the cut of a short list (barriers, of which every digit of a selection has six), 0.3 ms for
//! one in a whole flat row. Reading the weights of a model of 8 billion takes 5 ms.
//!
//! Parameters: see [`crate::kernel`].

pub mod control;
pub mod weight;

#[cfg(target_arch = "nvptx64")]
mod cut;
#[cfg(target_arch = "nvptx64")]
mod draw;
#[cfg(target_arch = "nvptx64")]
mod histogram;
#[cfg(target_arch = "nvptx64")]
mod row;
#[cfg(target_arch = "nvptx64")]
mod search;
#[cfg(target_arch = "nvptx64")]
mod sm80;
