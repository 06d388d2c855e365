//! RMSNorm of rows, and the residual addition before it.

use super::Params;

params! {
    /// The last parameter of `rms_norm`. Rows lie multiples of 16 bytes apart.
    RmsNormParams, 40 {
        /// Bytes from a row of `x` to the next.
        x_row_bytes: u64,
        /// Bytes from a row of the branch to the next.
        branch_row_bytes: u64,
        /// Bytes from a row of the output to the next.
        out_row_bytes: u64,
        /// Features of a row, a multiple of 8.
        hidden: u32,
        /// What is added to the mean of the squares.
        eps: f32,
        /// The token of row 0, for what is said of numbers that are not finite.
        first_token: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}
