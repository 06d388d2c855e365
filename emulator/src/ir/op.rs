//! The instructions.

use super::Reg;
use super::operands::*;
use crate::Class;
use crate::numerics::scalar::Mode;

/// What an instruction does. Fields are `d` destination, `a b c` sources, in the order of the text.
#[derive(Debug)]
pub enum Op {
    /// Nothing that the emulator models: `nanosleep`, prefetches, arguments of a call that will not return.
    Nop,
    Branch(u32),
    /// `brx.idx`: index register and targets.
    BranchIndex(Box<(Reg, Vec<u32>)>),
    Exit,
    Trap,
    /// A call of a function that does not return.
    Panic(Box<str>),
    /// `%clock`, `%clock64`, `%globaltimer`: instructions executed so far.
    Clock {
        d: Reg,
        wide: bool,
    },

    Mov32(Reg, Reg),
    Mov64(Reg, Reg),
    MovPred(Reg, Reg),
    /// Parts of `bits` bits, low first, into one register.
    Pack {
        d: Reg,
        wide: bool,
        bits: u8,
        parts: [Reg; 4],
    },
    Unpack {
        a: Reg,
        wide: bool,
        bits: u8,
        parts: [Reg; 4],
    },
    Select32(Reg, Reg, Reg, Reg),
    Select64(Reg, Reg, Reg, Reg),

    Int16(Int2, Reg, Reg, Reg),
    Int32(Int2, Reg, Reg, Reg),
    Int64(Int2, Reg, Reg, Reg),
    /// 64-bit shift by a 32-bit amount.
    Shift64(Int2, Reg, Reg, Reg),
    Unary16(Int1, Reg, Reg),
    Unary32(Int1, Reg, Reg),
    /// 64-bit result.
    Unary64(Int1, Reg, Reg),
    /// 32-bit result of a 64-bit source.
    Count64(Int1, Reg, Reg),
    Ternary32(Int3, Reg, Reg, Reg, Reg),
    Mad16(Reg, Reg, Reg, Reg),
    Mad64(Reg, Reg, Reg, Reg),
    /// 32 × 32 → 64 bits.
    MulWide {
        signed: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    /// 16 × 16 → 32 bits.
    MulWide16 {
        signed: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    MadWide {
        signed: bool,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Bfe64 {
        signed: bool,
        d: Reg,
        a: Reg,
        pos: Reg,
        len: Reg,
    },
    Bfi32 {
        d: Reg,
        a: Reg,
        b: Reg,
        pos: Reg,
        len: Reg,
    },
    Bfi64 {
        d: Reg,
        a: Reg,
        b: Reg,
        pos: Reg,
        len: Reg,
    },
    /// `add.cc addc sub.cc subc`.
    Carry {
        subtract: bool,
        reads: bool,
        writes: bool,
        wide: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },

    LogicPred(Logic, Reg, Reg, Reg),
    NotPred(Reg, Reg),
    /// `d` gets the result, `q` the combination with the opposite comparison.
    SetPred {
        d: Reg,
        q: Reg,
        compare: Compare,
    },
    /// All ones or 1.0 where true.
    Set {
        d: Reg,
        float: bool,
        compare: Compare,
    },

    Float1(Float1, Reg, Reg),
    Float2(Float2, Reg, Reg, Reg),
    Fma(Mode, Reg, Reg, Reg, Reg),
    Half(Box<Half>, Reg, [Reg; 3]),
    /// Conversion; `wide` tells which of destination and source are in the 64-bit file.
    Convert(Box<Convert>, Reg, Reg, [bool; 2]),
    ConvertPair(Box<ConvertPair>, Reg, Reg, Reg),
    /// Address arithmetic between a space's window and generic: `d = a + window` or `d = a − window`.
    ToGeneric(Space, Reg, Reg),
    FromGeneric(Space, Reg, Reg),
    IsSpace(Space, Reg, Reg),

    Load(Access),
    Store(Access),
    Atomic(Box<Atomic>),
    /// `discard.global.L2`: the 128 bytes at the address lose their value.
    Discard(Address),
    Fence,

    Shfl(Shfl),
    Vote {
        kind: Vote,
        d: Reg,
        p: Reg,
        negated: bool,
        mask: Reg,
    },
    /// `match.any`, or `match.all` with its predicate.
    Match {
        all: bool,
        wide: bool,
        d: Reg,
        p: Reg,
        a: Reg,
        mask: Reg,
    },
    Redux {
        op: Redux,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    ActiveMask(Reg),
    Elect {
        d: Reg,
        p: Reg,
        mask: Reg,
    },
    WarpSync(Reg),
    Barrier(Box<Barrier>),

    CpAsync(Box<CpAsync>),
    CpCommit,
    /// Waits until at most so many of the latest groups are pending.
    CpWaitGroup(u32),
    CpWaitAll,

    LdMatrix(MatrixAccess),
    StMatrix(MatrixAccess),
    MovMatrix(Reg, Reg),
    Mma(Box<Mma>),
}

impl Op {
    /// The class it is counted in.
    pub fn class(&self) -> Class {
        match self {
            Op::Branch(_) | Op::BranchIndex(_) | Op::Exit | Op::Trap | Op::Panic(_) | Op::Clock { .. } => {
                Class::Control
            }
            Op::Mov32(..) | Op::Mov64(..) | Op::Pack { .. } | Op::Unpack { .. } => Class::Move,
            Op::Select32(..) | Op::Select64(..) => Class::Move,
            Op::ToGeneric(..) | Op::FromGeneric(..) => Class::Move,
            Op::MovPred(..) | Op::LogicPred(..) | Op::NotPred(..) | Op::IsSpace(..) => Class::Compare,
            Op::SetPred { .. } | Op::Set { .. } => Class::Compare,
            Op::Int16(..) | Op::Int32(..) | Op::Int64(..) | Op::Shift64(..) => Class::Integer,
            Op::Unary16(..) | Op::Unary32(..) | Op::Unary64(..) | Op::Count64(..) => Class::Integer,
            Op::Ternary32(..) | Op::Mad16(..) | Op::Mad64(..) | Op::Carry { .. } => Class::Integer,
            Op::MulWide { .. } | Op::MulWide16 { .. } | Op::MadWide { .. } => Class::Integer,
            Op::Bfe64 { .. } | Op::Bfi32 { .. } | Op::Bfi64 { .. } => Class::Integer,
            Op::Float1(Float1::Neg { .. } | Float1::Abs { .. }, ..) | Op::Fma(..) => Class::Float,
            Op::Float2(Float2::Div(_) | Float2::DivApprox { .. } | Float2::DivFull { .. }, ..) => {
                Class::Special
            }
            Op::Float1(..) => Class::Special,
            Op::Float2(..) => Class::Float,
            Op::Half(half, ..) if matches!(half.op, HalfOp::Mufu(_)) => Class::Special,
            Op::Half(..) => Class::Half,
            Op::Convert(..) | Op::ConvertPair(..) => Class::Convert,
            Op::Load(access) | Op::Store(access) => match access.space {
                Space::Global | Space::Const => Class::Global,
                Space::Shared => Class::Shared,
                Space::Local => Class::Local,
                Space::Param => Class::Move,
                Space::Generic => Class::Generic,
            },
            Op::LdMatrix(_) | Op::StMatrix(_) => Class::Shared,
            Op::Atomic(_) => Class::Atomic,
            Op::Nop | Op::Fence | Op::Discard(_) => Class::Fence,
            Op::Shfl(_) | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => Class::Warp,
            Op::ActiveMask(_) | Op::Elect { .. } | Op::MovMatrix(..) => Class::Warp,
            Op::WarpSync(_) | Op::Barrier(_) => Class::Barrier,
            Op::CpAsync(_) | Op::CpCommit | Op::CpWaitGroup(_) | Op::CpWaitAll => Class::AsyncCopy,
            Op::Mma(_) => Class::Matrix,
        }
    }
}
