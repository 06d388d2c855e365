//! The pattern search of FlexPrefill (Lai et al. 2025, arXiv 2502.20766), from the sums of a probe to a bitmask of blocks.
//!
//! The rule, step by step, is that of `lacuna-reference`. Before come the probe and the mean keys, behind
//! [`crate::block_mask`]:
//!
//! | kernel | CTAs | does |
//! |---|---|---|
//! | `flex_prefill_coverage` | (vertical, slash) x head | counts the tokens that cover gamma, sums the scores of blocks |
//! | `flex_prefill_decide` | head | divergence, kind of the head, budgets; the largest columns and diagonals as bits |
//! | `flex_prefill_map` | 32 query blocks of a head | query-aware heads: softmax of mean queries against mean keys |
//! | `flex_prefill_cut` | head | query-aware heads: where the map's entries cover gamma, as bits |
//! | `flex_prefill_rows` | 4 rows of the mask | columns, diagonals shifted to the row, forced blocks, map |
//!
//! A head is query-aware or not on the device alone: both of the kernels in between are launched for all heads, and CTAs of
//! the others read one word and leave. What a mean query costs, reading all queries, query-aware heads alone pay.
//!
//! # Order of sums
//! Fixed by the lengths of a sequence, so that its blocks do not depend on the batch around it. Sums that are compared with
//! gamma are exact ([`crate::select::fixed`]).
//!
//! # Memory
//! Per head a float per token and way to count it (the probe), five words per key block, and the bitmask. The map, which
//! grows with query blocks x key blocks, lies where the lists of blocks go later: there are as many entries as there can be
//! blocks. Its bits, when it is cut, take the place of its first entries.
//!
//! Parameters: see [`crate::kernel`].

pub(crate) mod divergence;
pub(crate) mod row;

#[cfg(target_arch = "nvptx64")]
mod coverage;
#[cfg(target_arch = "nvptx64")]
mod cut;
#[cfg(target_arch = "nvptx64")]
mod decide;
#[cfg(target_arch = "nvptx64")]
mod head;
#[cfg(target_arch = "nvptx64")]
mod map;
#[cfg(target_arch = "nvptx64")]
mod rows;
