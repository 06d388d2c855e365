//! The likeliest token.

/// Threads of a CTA.
pub const ARGMAX_THREADS: u32 = 256;

/// Entries of a row that a CTA looks at, 16 per thread and all under way together: 32 CTAs for a vocabulary of 128 K.
pub const ARGMAX_SLICE: u32 = 4096;

/// The most rows of a call whose slices have CTAs of their own; more rows keep a GPU busy with one CTA each.
pub const ARGMAX_SLICED_ROWS: u32 = 64;
