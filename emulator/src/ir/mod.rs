//! The form a kernel runs in: dense register numbers, one operand form, branch targets as indices.
//!
//! Immediates, symbol addresses and special registers are *constant registers*, broadcast once per warp, so that an
//! operand is always a register number.

mod op;
mod operands;

pub use op::Op;
pub use operands::*;

use crate::Class;

/// Number of a register within its file: 32-bit (with everything narrower), 64-bit, or predicates.
pub type Reg = u16;

/// The predicate that is always true; also the guard of an unguarded instruction.
pub const TRUE: Reg = 0;
/// The predicate that is always false.
pub const FALSE: Reg = 1;
/// Where results that nobody wants go, in each file. Reading it is never lowered.
pub const SINK_PRED: Reg = 2;
/// The sink of the 32-bit file.
pub const SINK32: Reg = 0;
/// The sink of the 64-bit file.
pub const SINK64: Reg = 0;

/// One instruction.
#[derive(Debug)]
pub struct Inst {
    pub op: Op,
    /// Predicate that guards it.
    pub guard: Reg,
    /// Whether the guard is negated.
    pub negated: bool,
    /// Line of the text.
    pub line: u32,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub offset: u32,
    pub bytes: u32,
    pub align: u32,
}

/// Special registers of 32 bits, in the order of their register numbers, which start at [`FIRST_SPECIAL`].
pub const SPECIAL: [&str; 22] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%lanemask_eq",
    "%lanemask_lt",
    "%lanemask_le",
    "%lanemask_gt",
    "%lanemask_ge",
    "%dynamic_smem_size",
    "%total_smem_size",
];

/// Number of the first special register.
pub const FIRST_SPECIAL: Reg = 1;

/// A kernel ready to run.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// Text and class of each instruction.
    pub texts: Vec<(String, Class)>,
    pub num_regs32: usize,
    pub num_regs64: usize,
    pub num_preds: usize,
    pub constants32: Vec<(Reg, u32)>,
    pub constants64: Vec<(Reg, u64)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// Shared memory the module declares; the dynamic part follows.
    pub static_shared_bytes: u32,
    /// `.maxntid` and `.reqntid`.
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
}
