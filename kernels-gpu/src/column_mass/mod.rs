//! The attention that keys received from some query rows, summed over rows and heads:
//! `mass[j] += sum over h, i of exp(softmax_scale q_i . k_j - softmax_lse[h, i])` over the rows `i` that see `j`.
//!
//! # Tiling
//! A CTA of 4 warps owns 128 keys and finishes them: it walks the KV heads in order, and for each the rows of its group. The
//! keys of a head stay in registers, 32 per warp; rows pass by in steps of 32 ([`crate::product`]), packed as in decode
//! attention: row `i * group + g` is query `i` of the `g`-th head of the group, so that one query of every head fills a step
//! as well as many of one. Every key is read once, every query once per CTA. The transposed product has keys down and queries
//! across: a lane holds the same four keys throughout, and adds up their probabilities without meeting another.
//!
//! 128 keys per CTA occupy 64 of them at 8k keys. Heads are not split among CTAs, which would take a second launch: with
//! few keys the work is small.
//!
//! # Sums
//! A lane adds 8 probabilities per key and step in `f32`, and the steps' sums with their rounding errors carried along
//! ([`compensated`]): thousands of rows lose nothing. The four lanes of a key meet at the end. The order is that of rows and
//! heads, the same for every grid.
//!
//! # Masks
//! Steps none of whose rows see a key of the CTA are skipped, at the start; in those of which some row does not see some key,
//! its scores are taken to `-inf`. A key that is not finite spoils its own mass alone, and only if a row sees it.
//!
//! # Shared memory
//! Keys on their way to registers, two stages of queries, and for each of their rows what is added to its scaled scores and
//! the keys it sees.

pub(crate) mod compensated;

#[cfg(target_arch = "nvptx64")]
mod rows;
#[cfg(target_arch = "nvptx64")]
mod sm80;
