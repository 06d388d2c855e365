//! Sparse attention kernels for long contexts: block-sparse flash attention, and the pattern searches that feed it.
//!
//! ```text
//! q, k, v --> pattern --> selection --> attention over it --> out, lse
//!                                           |
//!              other partial results (out, lse) --> merge_state --> out, lse
//! ```
//!
//! # Where things are
//!
//! One stem names an operation in every crate: [`dense_attention`] here is `kernels-cpu/src/dense_attention.rs` (what
//! runs) and `reference/src/dense_attention.rs` (plain loops in `f64`, what it is tested against).
//!
//! | to do | use |
//! | --- | --- |
//! | prefill under a pattern: search and attention in one plan | [`prefill`] |
//! | choose what to read | [`Pattern`], [`pattern`] |
//! | attention over your own block lists | [`block_sparse_attention`], [`BlockMask`] |
//! | dense attention | [`dense_attention`] |
//! | a few new tokens over a long cache | [`decode_attention`] |
//! | combine partial results | [`merge_state`] |
//! | one step of a search alone (scores, selection, pooling, top-k, k-means, column mass) | [`cpu`], [`gpu`] |
//! | any of it on tensors in device memory, on your stream, in a CUDA graph | [`gpu`], [`gpu::prefill`] |
//! | matrix products | [`cpu`] |
//!
//! # Contracts
//!
//! - Tensors are `[tokens, heads, head_dim]`, last dimension contiguous, token and head strides free ([`TensorView`]);
//!   `B,S,H,D` and `B,H,S,D` memory are constructors of the same view. Batches are ragged ([`Seqlens`]).
//! - `bf16`, `f16` and `f32`; `f32` accumulation. Head dims up to 256, fastest at 64, 96, 128 and 256. Any integer GQA
//!   ratio; keys and values are never repeated in memory.
//! - Causal is bottom-right aligned: row `i` sees key `j` iff `j <= i + (seqlen_k - seqlen_q)`. Any past length, for
//!   patterns too.
//! - `softmax_scale` defaults to `1 / sqrt(head_dim)`. The LSE is `f32`, natural log, `[num_heads, total_q]`. An empty row
//!   gives zeros and `-inf`, never NaN.
//! - The same call gives the same bits, whatever the batch around it and however many threads; selection breaks ties
//!   by lowest index.
//! - Plan, then run: planning validates and allocates; running allocates nothing that grows with the sizes.
//! - No call panics on bad input; an [`Error`] names the operation, the argument, what was expected and what came.

pub mod block_sparse_attention;
pub mod decode_attention;
pub mod dense_attention;
mod device;
pub mod gpu;
pub mod pattern;
pub mod prefill;
pub mod ptx;
mod staging;

#[cfg(feature = "emulator")]
pub use device::Arch;
pub use device::Device;
pub use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, DType, DecodeShape, DeviceError, Element, Error,
    FlexPrefillCompat, FlexPrefillOptions, KMeansMetric, KMeansOptions, Layout, MAX_HEAD_DIM, Result,
    Seqlens, TensorView, TensorViewMut, Threshold, ThresholdTable, VerticalSlashIndex, VerticalSlashOptions,
    XAttentionCompat, XAttentionOptions,
};
/// The CPU kernels themselves, one module per stem, on slices.
pub use lacuna_kernels_cpu as cpu;
pub use lacuna_kernels_cpu::merge_state;
pub use pattern::{Pattern, Report, Selection};

/// The README's example is compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
