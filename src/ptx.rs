//! The kernels as PTX text, for engines that load modules themselves.
//!
//! Kernel names and parameters are those of [`gpu`](crate::gpu)'s launchers; they may change with any version.

use crate::gpu::Image;

/// For compute capability 8.0 and above.
pub const SM_80: &str = include_str!(concat!(env!("OUT_DIR"), "/sm_80.ptx"));

/// Every image, with what the emulator needs to name lines of Rust.
pub const IMAGES: [Image<'static>; 1] =
    [Image { ptx: SM_80, lines: include_str!(concat!(env!("OUT_DIR"), "/sm_80.lines")) }];

/// Where the images come from: text that begins with `shipped`, or tells what they were built from or read from.
pub const ORIGIN: &str = env!("LACUNA_PTX_ORIGIN");
