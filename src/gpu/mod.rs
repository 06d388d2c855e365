//! The GPU kernels themselves, one module per stem, on device memory: contexts, tensors, plans, raw calls.
//!
//! Everything of `lacuna-kernels-host`, and [`prefill`], which joins a pattern's search and its attention.

pub mod prefill;

pub use lacuna_kernels_host::*;
