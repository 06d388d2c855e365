//! The oracle of lacuna: every operation in plain loops and `f64`, obviously right and slow.
//!
//! One file per operation, named as in every other crate. Inputs are the [`TensorView`](lacuna_core::TensorView)s
//! that the kernels take; outputs are `f64`, in the same order: attention outputs `[total_q, num_heads, head_dim]`,
//! log-sum-exps `[num_heads, total_q]` with natural logarithm and `-inf` on rows that see nothing.
//!
//! Nothing here is tuned, and nothing reads a key or value that the masks hide, so poisoned memory stays unseen.
//! Where a method leaves room, the rustdoc of the operation states the rule in full, and the kernels follow it.
//!
//! ```
//! use lacuna_core::{AttentionOptions, AttentionShape, Seqlens};
//! use lacuna_reference::{dense_attention, testing::{Rng, Tensor}};
//! let shape = AttentionShape::new(4, 2, 64, Seqlens::single(5, 9)?)?;
//! let mut rng = Rng::new(1);
//! let q = Tensor::<f32>::random(&mut rng, 5, 4, 64);
//! let k = Tensor::<f32>::random(&mut rng, 9, 2, 64);
//! let v = Tensor::<f32>::random(&mut rng, 9, 2, 64);
//! let want = dense_attention(&shape, &q.view(), &k.view(), &v.view(), &AttentionOptions::default())?;
//! assert_eq!((want.out.len(), want.softmax_lse.len()), (5 * 4 * 64, 4 * 5));
//! # Ok::<(), lacuna_core::Error>(())
//! ```

mod antidiagonal_score;
mod argmax;
mod block_pool;
mod block_select;
mod block_sparse_attention;
mod column_mass;
mod decode_attention;
mod dense_attention;
mod embed;
mod flex_prefill;
mod gather_rows;
mod gemm;
mod k_means;
mod masked_attention;
mod merge_state;
mod probe;
mod ranking;
mod rms_norm;
mod rope;
mod silu_mul;
pub mod testing;
mod top_k;
mod vertical_slash;

pub use antidiagonal_score::{BlockScores, antidiagonal_score};
pub use argmax::argmax;
pub use block_pool::block_pool;
pub use block_select::{block_select, block_select_bounds};
pub use block_sparse_attention::block_sparse_attention;
pub use column_mass::column_mass;
pub use decode_attention::decode_attention;
pub use dense_attention::dense_attention;
pub use embed::embed;
pub use flex_prefill::{FlexPrefill, FlexPrefillHead, flex_prefill, flex_prefill_bounds};
pub use gather_rows::gather_rows;
pub use gemm::gemm;
pub use k_means::{KMeans, k_means};
pub use masked_attention::{AttentionOutput, masked_attention};
pub use merge_state::merge_state;
pub use rms_norm::rms_norm;
pub use rope::{RopeLayout, RopeScaling, rope, rope_frequencies};
pub use silu_mul::silu_mul;
pub use top_k::top_k;
pub use vertical_slash::{VerticalSlash, VerticalSlashHead, vertical_slash, vertical_slash_attention};
