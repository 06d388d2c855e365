//! The gate of the MLP.

/// Threads of a CTA, each with 8 features of the output.
pub const SILU_MUL_THREADS: u32 = 128;
