//! Attention kernels for the CPU: blocked, SIMD chosen at run time, multi-threaded.
//!
//! One module per operation. Plans check their arguments and allocate; running them allocates nothing that grows with
//! the shape. Work runs on the current rayon pool; results do not depend on its size.

mod buffer;
mod engine;
mod finite;
mod forward;
mod key_list;
mod pack;
mod per_type;
mod probe;
mod rows;
mod schedule;
mod tile_size;

pub mod antidiagonal_score;
pub mod block_pool;
pub mod block_select;
pub mod block_sparse_attention;
pub mod column_mass;
pub mod decode_attention;
pub mod dense_attention;
pub mod flex_prefill;
pub mod gemm;
pub mod k_means;
pub mod merge_state;
pub mod simd;
pub mod top_k;
pub mod vertical_slash;

pub use finite::check_finite;
