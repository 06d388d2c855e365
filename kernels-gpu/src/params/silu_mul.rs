//! The gate of the MLP.

use super::Params;

params! {
    /// The last parameter of `silu_mul`.
    SiluMulParams, 24 {
        /// Bytes from a row of the gate and `up` to the next, a multiple of 16.
        gate_up_row_bytes: u64,
        /// Bytes from a row of the output to the next, a multiple of 16.
        out_row_bytes: u64,
        /// Pieces of 16 bytes of a row of the output; the gate has as many, and `up` behind it.
        pieces: u32,
        /// Keeps the struct free of padding; 0.
        reserved: u32,
    }
}
