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
//! | decode attention, split over the keys | [`decode_attention::Plan`] |
//! | merging partial results | [`merge_state::Plan`] |
//!
//! The launchers know a device through the [`Driver`] trait alone. `CudaDriver` loads the NVIDIA driver at run time;
//! without one it is an error, [`DeviceError::NoDriver`], not a crash. `EmulatedDriver` runs the same PTX on the
//! processor, with checks that hardware does not make.
//!
//! # Streams
//!
//! Work is queued on the stream that is passed and done in order. Work on different streams is not ordered, unless one
//! waits for an [`Event`] of the other; outputs are complete once the stream has been synchronised or read from.
//!
//! # Features
//!
//! `cuda-12080` (default), `cuda-13000` or `cuda-version-from-build-system`, one of them, choose the bindings of the driver
//! and turn on `CudaDriver`; `emulator` turns on `EmulatedDriver`. `gpu-tests` lets the tests use a GPU.

mod attention;
pub mod block_sparse_attention;
mod buffer;
mod check;
mod context;
#[cfg(feature = "cuda")]
mod cuda;
pub mod decode_attention;
pub mod dense_attention;
pub mod driver;
#[cfg(feature = "emulator")]
mod emulated;
mod image;
mod launch;
pub mod merge_state;
mod q_tiles;
mod search;
mod stream;
mod view;
mod workspace;

pub use buffer::DeviceBuffer;
pub use context::Context;
#[cfg(feature = "cuda")]
pub use cuda::CudaDriver;
pub use driver::{DeviceInfo, DevicePtr, Driver, MemoryInfo, RawStream};
#[cfg(feature = "emulator")]
pub use emulated::EmulatedDriver;
pub use image::Image;
pub use lacuna_core::{DeviceError, Error};
#[cfg(feature = "emulator")]
pub use lacuna_emulator::{Arch, Report, Totals};
pub use stream::{Event, Stream};
pub use view::{DeviceTensor, DeviceView, DeviceViewMut, RawTensor};
pub use workspace::decode_attention_workspace_bytes;
