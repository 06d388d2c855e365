//! The largest entries of rows, in ascending or descending order of their indices.
//!
//! A CTA of 32 warps per row: a radix cut by count ([`crate::select::radix`]) reads the row three times, and the list of what
//! is kept ([`crate::select::compact`]) once more; all but the first find it in the second-level cache. Ties go to the lowest
//! index, NaN comes after every number, forced entries before all. What comes out depends on nothing but the row.
//!
//! A row of 131 072 normal numbers takes 535 thousand warp instructions on the emulator, 130 for 32 entries, whatever the
//! scores are; 51 registers by ptxas 13.0.88 for sm_80. It has not been timed. One CTA is slow company for a row of a million
//! entries, but a search has one for every head.
//!
//! `top_k` has rows of one length, forced entries anywhere, and ascending lists. `top_k_tokens` has rows as long as their
//! sequence's keys, as the token scores of a search lie, the first entries forced, and either order.
//!
//! Parameters: see [`crate::kernel`].

mod sm80;
