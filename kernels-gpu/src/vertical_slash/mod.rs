//! Attention over vertical-slash patterns (MInference, arXiv 2407.02490): each tile of 64 rows reads the keys around a
//! head's diagonals, in tiles of 64 that begin anywhere, and those of its columns that lie outside them, 64 at a time.
//!
//! The forward pass of [`crate::forward`] over the tiles that [`walk`] finds. Parameters: see [`crate::kernel`].
//!
//! # No index in memory
//! Which keys a tile of rows reads follows from the head's two lists by a walk along both, which [`walk`] describes; the
//! published kernel reads its result for every tile of rows instead, up to `N / 64` entries per tile, or gigabytes at a
//! million tokens. Here each warp walks as the attention goes: an entry of the result costs some fifty instructions that
//! are issued beside the products of a tile, and memory holds the lists alone, a few thousand entries per head.
//!
//! # Thread mapping
//! That of [`crate::forward`]. A lane holds one entry of 32 of either list; all warps of a CTA take the same walk and come
//! to the same tiles, and the first of them writes the columns it passes to a ring. Consecutive keys are copied as ever; of
//! a gathered tile each thread copies its 16 bytes of the rows that the ring names.
//!
//! # Order
//! From the first key to the last: gathered tiles as soon as 64 columns are known, the rest of the columns at the end.
//! Tiles that all rows see whole therefore come first, and those cut by the causal mask or the end of the keys last, with
//! the last columns. Columns lie before all rows: of their tiles, only the last has a mask, by its number of keys.
//!
//! # Shared memory
//! As the forward pass; then the ring, [`COLUMN_RING`](crate::tile_size::COLUMN_RING) indices of columns. It is written
//! before a barrier of the forward pass and read behind it.
//!
//! # Machine code
//! By ptxas 13.0.88 for sm_80, 168 registers at head dim 128 and 128 at 64, as block-sparse attention of this tile; three
//! words of the walk go to the stack. A tile of consecutive keys costs each warp 51 PTX instructions more than there (598
//! and 414); a gathered one 192 more than that at head dim 128, and 128 at 64. None of this has been timed.

#[cfg(target_arch = "nvptx64")]
mod sm80;
mod walk;
