//! Typed launchers of the device kernels, on CUDA and on the emulator.
//!
//! ```text
//! Context  = a Driver (CUDA device, or emulator) + the PTX image for it
//! Plan     = one operation for one shape: checks everything, computes grids, uploads tables, allocates workspaces
//! run      = launches, and nothing else
//! ```
//!
//! Every operation has two levels. `run` takes views ([`DeviceView`], [`DeviceViewMut`]) and checks them; `run_raw` takes
//! addresses, strides and a stream of any owner, so that engines with their own allocator can call it. Callers never see a
//! launch configuration.
//!
//! | stem | plan |
//! | --- | --- |
//! | dense attention | [`dense_attention::Plan`] |
//! | block-sparse attention | [`block_sparse_attention::Plan`] |
//! | bitmasks to lists of blocks | [`block_mask::Plan`] |
//! | decode attention, split over the keys | [`decode_attention::Plan`] |
//! | merging partial results | [`merge_state::Plan`] |
//! | vertical-slash search, and attention over what it finds | [`vertical_slash::SearchPlan`], [`vertical_slash::AttentionPlan`] |
//! | matrix products | [`gemm::Plan`] |
//! | means of blocks of tokens | [`block_pool::Plan`] |
//! | the pattern search of FlexPrefill | [`flex_prefill::Plan`] |
//! | how much attention each key received | [`column_mass::Plan`] |
//! | the attention of the last queries, summed by key and by diagonal | [`probe::Plan`] |
//! | block selection by coverage | [`block_select::Plan`] |
//! | the largest entries of rows | [`top_k::Plan`], [`top_k::TokenPlan`] |
//! | block scores of XAttention | [`antidiagonal_score::Plan`] |
//! | rows by index | [`gather_rows::Plan`] |
//! | the likeliest token | [`argmax::Plan`] |
//! | a random token of a distribution | [`sample::Plan`] |
//! | k-means of token features | [`k_means::Plan`] |
//! | the pattern search of XAttention | [`x_attention::Plan`] |
//! | RMSNorm of rows, after a residual addition or not | [`rms_norm::Plan`] |
//! | the gate of the MLP | [`silu_mul::Plan`] |
//! | rotary position embedding, and the write to the KV cache | [`rope::Plan`] |
//!
//! The launchers know a device through the [`Driver`] trait alone. `CudaDriver` loads the NVIDIA driver at run time;
//! without one it is an error, [`DeviceError::NoDriver`], not a crash. `EmulatedDriver` runs the same PTX on the
//! processor, with checks that hardware does not make. [`DryRunDriver`] has no device behind it: it counts what plans
//! allocate and what runs launch.
//!
//! # Streams
//!
//! Work is queued on the stream that is passed and done in order. Work on different streams is not ordered, unless one
//! waits for an [`Event`] of the other; outputs are complete once the stream has been synchronised or read from. Running a
//! plan can be recorded into a [`Graph`], and then be repeated at the price of one launch.
//!
//! # Features
//!
//! `cuda-12080` (default), `cuda-13000` or `cuda-version-from-build-system`, one of them, choose the bindings of the driver
//! and turn on `CudaDriver`; `emulator` turns on `EmulatedDriver`. `cublaslt` lets [`gemm`] use cuBLASLt on machines that
//! have it. `gpu-tests` lets the tests use a GPU.

pub mod antidiagonal_score;
pub mod argmax;
mod attention;
pub mod block_mask;
pub mod block_pool;
pub mod block_select;
pub mod block_sparse_attention;
mod buffer;
mod capture;
mod check;
pub mod column_mass;
mod context;
#[cfg(feature = "cuda")]
mod cuda;
pub mod decode_attention;
pub mod dense_attention;
pub mod driver;
mod dry_run;
#[cfg(feature = "emulator")]
mod emulated;
pub mod flex_prefill;
pub mod gather_rows;
pub mod gemm;
mod graph;
mod image;
pub mod k_means;
mod launch;
pub mod merge_state;
pub mod probe;
mod q_tiles;
mod queues;
pub mod rms_norm;
pub mod rope;
pub mod sample;
mod search;
pub mod silu_mul;
mod stream;
pub mod top_k;
pub mod vertical_slash;
mod view;
mod workspace;
pub mod x_attention;

pub use block_mask::DeviceBlockMask;
pub use buffer::DeviceBuffer;
pub use context::Context;
#[cfg(feature = "cuda")]
pub use cuda::CudaDriver;
pub use driver::{DeviceInfo, DevicePtr, Driver, MemoryInfo, RawStream};
pub use dry_run::{DryRunDriver, DryRunLaunch};
#[cfg(feature = "emulator")]
pub use emulated::{EmulatedDriver, EmulatedLaunch};
pub use graph::Graph;
pub use image::Image;
pub use lacuna_core::{DeviceError, Error};
#[cfg(feature = "emulator")]
pub use lacuna_emulator::{Arch, Report, Totals};
pub use stream::{Event, Stream};
pub use view::{DeviceTensor, DeviceView, DeviceViewMut, RawTensor};
pub use workspace::decode_attention_workspace_bytes;
