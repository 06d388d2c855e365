//! Executes PTX on the CPU, with more checks than the hardware's own tools make.
//!
//! The emulator reads the PTX that ships, runs it warp by warp, and stops at the first thing that is wrong: an access
//! out of bounds, misaligned or to memory nobody wrote; a race in shared memory or between CTAs; a barrier that part of a
//! warp reaches; a wait that is missing; a deadlock. It counts what it runs exactly, so that a design claim ("one
//! wavefront per row of a K tile") is a test.
//!
//! It has no notion of time: no cycles, no occupancy, no caches. Register spills and the assembler's own faults are the
//! business of ptxas; speed is the business of a device.
//!
//! # Example
//!
//! ```
//! use lacuna_emulator::{Arch, Arg, LaunchShape, Machine};
//!
//! let ptx = "
//! .version 7.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double_it(.param .u64 .ptr .align 4 data) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<5>;
//!     ld.param.b64    %rd1, [data];
//!     cvta.to.global.u64 %rd2, %rd1;
//!     mov.u32         %r1, %tid.x;
//!     mul.wide.u32    %rd3, %r1, 4;
//!     add.s64         %rd4, %rd2, %rd3;
//!     ld.global.b32   %r2, [%rd4];
//!     shl.b32         %r2, %r2, 1;
//!     st.global.b32   [%rd4], %r2;
//!     ret;
//! }";
//! let mut machine = Machine::new(Arch::Sm80);
//! let module = machine.load_module(ptx, None)?;
//! let kernel = machine.kernel(module, "double_it").expect("the module has this kernel");
//! let data = machine.alloc(4 * 32, "data");
//! let input: Vec<u8> = (0..32u32).flat_map(u32::to_le_bytes).collect();
//! machine.copy_in(data, &input)?;
//! let report = machine.launch(kernel, &LaunchShape::new(1, 32), &[Arg::ptr(data)])?;
//! let mut output = vec![0; 4 * 32];
//! machine.copy_out(data, &mut output)?;
//! assert_eq!(output[4..8], 2u32.to_le_bytes());
//! assert_eq!(report.counters.totals().warp_instructions, 9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
pub mod conformance;
mod exec;
mod fault;
mod ir;
mod launch;
mod lines;
mod machine;
mod memory;
pub mod numerics;
mod options;
mod profile;
mod reader;
mod report;
mod rng;

pub use fault::{Fault, FaultKind, ReadError, Site, SourceLine};
pub use launch::{Arg, LaunchShape};
pub use machine::{DevicePtr, KernelId, Machine, ModuleId};
pub use options::{Options, Scheduler};
pub use profile::{Arch, Profile};
pub use report::{Advisory, AdvisoryKind, Class, Counters, LineCounters, Report, Totals};
