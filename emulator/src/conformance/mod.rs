//! Instruction vectors: what a device answered, replayed on the emulator.
//!
//! Every instruction form that a kernel may use has a tiny kernel here, generated from a template: it loads its operands
//! from a buffer, executes the instruction once per lane, and stores the results. Kernels and inputs are functions of the
//! form and a seed alone, so a file needs to hold only outputs.
//!
//! - [`forms`]: the table of forms, each with the [`Class`](crate::numerics::Class) that a replay demands.
//! - [`Form::ptx`], [`Form::inputs`]: the kernel and its operands.
//! - [`capture`]: runs all of them on a [`Device`] and gives an [`Archive`].
//! - [`Archive`]: the file format, read and written.
//! - [`replay`]: runs the same kernels on the emulator and compares.
//!
//! A device is whatever implements the five verbs of [`Device`]; [`Emulated`] does so over a
//! [`Machine`](crate::Machine), which is how the path from capture to replay is tested where there is no GPU.

mod archive;
mod capture;
mod form;
mod inputs;
mod replay;
mod table;

pub use archive::{Archive, FormatError, MAX_ARCHIVE_BYTES, Origin, Record, WORDS_PER_CHECKSUM};
pub use capture::{CaptureError, Device, Emulated, EmulatedError, capture, run};
pub use form::{Form, KERNEL_NAME, LANES_PER_CTA, Operand, Output};
pub use replay::{Finding, Replay, replay};
pub use table::{form, forms};

/// The seed of the committed captures.
pub const SEED: u64 = 0x6c61_6375_6e61_0001;
