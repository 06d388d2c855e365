//! Matrix products.

use super::Params;

params! {
    /// The last parameter of `gemm`.
    GemmParams, 56 {
        /// Bytes from a row of the left operand to the next; a multiple of 16.
        x_row_bytes: u64,
        /// Bytes from a row of the weight to the next; a multiple of 16.
        weight_row_bytes: u64,
        /// Bytes from a row of the output to the next: a multiple of 16, or of 4 for f32.
        out_row_bytes: u64,
        /// Rows of the left operand and of the output.
        rows: u32,
        /// Rows of the weight, columns of the output; a multiple of 8 unless the output is f32.
        out_features: u32,
        /// Columns of both operands; a multiple of 8.
        in_features: u32,
        /// Tiles from the first row to the last.
        tiles_m: u32,
        /// Tiles from the first column to the last.
        tiles_n: u32,
        /// CTAs that share a tile, each with a part of the features; the grid's extent in y.
        splits: u32,
        /// Steps of [`GEMM_TILE_K`](crate::tile_size::GEMM_TILE_K) features of a CTA; the last of a tile may have fewer,
        /// none has 0.
        split_steps: u32,
        /// 0: outputs are of the operands' type. 1: of f32, at any multiple of 4 bytes. 2: of f32, and all rows begin at
        /// multiples of 8 bytes.
        out_f32: u32,
    }
}
