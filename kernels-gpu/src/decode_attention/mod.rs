//! Decode attention: a few query rows per sequence over a long cache (flash decoding).
//!
//! # Tiling
//! The time is that of reading keys and values once. All query heads that share a KV head, and all query rows, are packed
//! into one tile of rows, so that one CTA reads a stretch of keys for all of them; the keys are cut into splits of
//! [`crate::tile_size::decode_split_keys`], one CTA each, whose partial outputs and LSEs a second kernel merges. Splits
//! depend on the length of the sequence alone: a row has the same bits whatever batch it is in.
//!
//! # Thread mapping
//! A warp owns 16 packed rows, the height of one product. In the tile of 64 rows each of the 4 warps has its own; in the
//! tile of 16 all have the same, take a quarter of the keys of each step, and merge at the end, in warp order, through
//! shared memory. Queries stay in registers.
//!
//! # Schedule
//! A ring of stages, each a tile of keys and one of values: the wait for a stage and one barrier, then the copies of the
//! next begin, into the place that the barrier has said is free, then the products. Three CTAs per SM keep about 96 KB
//! under way.
//!
//! Steps that hold the end of the keys or the causal diagonal are masked as in [`crate::forward`], and treat values that
//! are not finite in the same way.
//!
//! # Shared memory
//! Queries, then the stages: 68 KB at head dim 128 and 16 rows. After the last step the ring's place serves the exchange
//! between the warps, in f32 rows padded by 32 bytes.
//!
//! # Registers
//! 168 and 220 (16 and 64 rows) at head dim 128, 121 and 157 at 64, by ptxas 13.0.88 for sm_80; nothing spills.
//!
//! Parameters, workspace and grid: see [`crate::kernel`].

mod exchange;
mod merge;
mod packed_rows;
mod sm80;
