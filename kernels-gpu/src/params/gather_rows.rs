//! Gathering rows.

use super::{Params, Strides};

params! {
    /// The last parameter of `gather_rows`. Strides are in bytes, multiples of 16.
    GatherRowsParams, 48 {
        /// The source, `[tokens, heads, head_dim]`.
        src: Strides,
        /// The output, `[rows, heads, head_dim]`.
        out: Strides,
        /// Rows that the output has room for, and at most so many are written.
        rows: u32,
        /// Tokens of the source.
        tokens: u32,
        /// Pieces of 16 bytes of a row of one head; from 1 to [`GATHER_THREADS`](crate::tile_size::GATHER_THREADS).
        pieces: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}
