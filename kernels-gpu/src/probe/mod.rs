//! The probe of the pattern searches: the attention of the last `m <= 128` query rows of a head over all keys, summed by
//! key (`vertical`) and by diagonal (`slash`).
//!
//! ```text
//! row r of 128 stands at key k_len - 128 + r; the rows before the last m do not exist
//! p[r, j] = 2^(t q_r . k_j - M_r) / Z_r        for the keys j that the row sees, t = softmax_scale log2 e
//! vertical[j] = sum over r of p[r, j]          slash[o] = sum over r of p[r, k_len - 128 + r - o]
//! ```
//!
//! Two launches over the same chunks of keys. The first ([`statistics`]) finds every row's maximum and sum within the chunk;
//! the second merges these over the chunks, in order, computes the products again and adds up probabilities. Nothing as
//! large as rows x keys is stored: between the launches lie 8 bytes per row and chunk.
//!
//! # Tiling
//! A CTA of 4 warps works on one query head and one chunk ([`crate::tile_size::probe_chunk_keys`]): the 128 rows stay in
//! registers, 32 per warp, keys pass by in steps of 32 ([`crate::product`]). Warps all of whose rows do not exist compute
//! nothing. Neighbouring CTAs read the same keys for the heads of a group.
//!
//! # Sums by key
//! A lane adds its 4 rows, a butterfly over the 8 lanes of a column halves what each holds until it has one column, and the
//! four warps meet in shared memory, one step later.
//!
//! # Sums by diagonal
//! The probabilities of this step and the last lie in shared memory, sheared so that a diagonal is a column ([`diagonals`]).
//! After a step, 32 diagonals of each warp's 32 rows are complete: a lane adds one of them. Diagonals of different warps meet
//! as in a pipeline: what warp 0 has of a diagonal, warp 1 completes a step later, and warp 3 stores three steps later. A CTA
//! reads the 128 keys behind its chunk to finish the diagonals that begin in it.
//!
//! Every sum is thus formed in an order that is that of its rows and nothing else: keys with equal probabilities get equal
//! sums, and neither grid nor batch show in the results.
//!
//! # Shared memory
//! First pass: queries on their way to registers, two stages of keys. Second: the queries' place becomes that of the
//! probabilities (8 KB per warp, never less than the queries at head dim 64), behind it the stages, and 1.5 KB in which the
//! warps meet. Nothing conflicts in its banks.
//!
//! # Machine code
//! By ptxas 13.0.88 for sm_80, bf16 (f16 is the same), without spills; of a step of 32 keys, per warp:
//!
//! | kernel | registers | HMMA | LDSM | MUFU | stores and loads of probabilities |
//! |---|---|---|---|---|---|
//! | `probe_d64_lse` | 112 | 32 | 8 | 36 | |
//! | `probe_d128_lse` | 146 | 64 | 16 | 36 | |
//! | `probe_d64_sums` | 122 | 32 | 8 | 32 | 32 + 32 |
//! | `probe_d128_sums` | 156 | 64 | 16 | 32 | 32 + 32 |
//!
//! The 64 products take 512 cycles of an A100's tensor core. In the second pass shared memory has as much to do: four warps share
//! it, and each asks for some 140 phases per step, 64 of them for probabilities. None of this has been timed.

pub(crate) mod diagonals;
pub(crate) mod statistics;

#[cfg(target_arch = "nvptx64")]
mod chunk;
#[cfg(target_arch = "nvptx64")]
mod meeting;
#[cfg(target_arch = "nvptx64")]
mod sm80;
