//! Compiles Rust kernels to PTX ahead of time, and lints what comes out.
//!
//! [`PtxBuilder`] is the whole of it for a crate of kernels of one's own:
//!
//! ```no_run
//! use ptx_builder::{Arch, PtxBuilder};
//!
//! let image = PtxBuilder::new("kernels").arch(Arch::Sm80).copy_to("ptx").build()?;
//! println!("{} kernels", image.kernels.len());
//! # Ok::<(), ptx_builder::Error>(())
//! ```
//!
//! A kernel is an `extern "ptx-kernel"` function beside a static of its launch bounds, which Rust has no attribute for:
//! `#[unsafe(export_name = "__launch_bounds__scale")] static BOUNDS: [u32; 3] = [128, 2, 0];` says 128 threads, two CTAs
//! per multiprocessor and no limit of its own on registers; a fourth number is the bytes of dynamic shared memory.
//!
//! A crate that ships its images commits them beside a manifest ([`Order`], the `ptx-builder` program), and asks in its
//! build script for [`Provide`]: the shipped text while the sources are unchanged, a new build of it otherwise.
//!
//! The library depends on nothing; the feature `cli` (on by default) is the program.

mod arch;
mod builder;
mod command;
mod error;
mod ir_pass;
mod lines;
mod lint;
mod manifest;
mod pipeline;
mod provide;
mod ptx;
mod ptxas;
mod sass;
mod sha256;
mod shipment;
mod source;
mod stable;
mod table;
mod toolchain;

pub use arch::Arch;
pub use builder::{Image, PtxBuilder};
pub use error::{Error, Result};
pub use ir_pass::{Convergent, LaunchBounds};
pub use lint::{Finding, check as lint};
pub use manifest::{ImageRecord, KernelRecord, Manifest, Resources};
pub use pipeline::OptLevel;
pub use provide::Provide;
pub use ptxas::Ptxas;
pub use shipment::{Order, Shipment};
pub use source::source_hash;
pub use toolchain::Toolchain;
