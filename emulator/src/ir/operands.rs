//! What instructions are made of: operations, modifiers and groups of registers.

use super::Reg;
use crate::numerics::mufu::Function;
use crate::numerics::scalar::Mode;
use crate::numerics::{Format, Round, convert, half};

/// Address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
    Generic,
}

/// Ordering of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Weak,
    /// Also `.volatile` and `.mmio`.
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

impl Order {
    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }

    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

/// `base + offset`.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub base: Reg,
    /// The base is in the 64-bit file.
    pub wide: bool,
    pub offset: i32,
}

/// A load or store of up to four elements per lane.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub space: Space,
    pub order: Order,
    pub address: Address,
    /// Bytes of an element.
    pub width: u8,
    /// Elements.
    pub count: u8,
    /// Loads extend the sign.
    pub signed: bool,
    /// Width of the registers; with 64 they are in the 64-bit file.
    pub reg_bits: u8,
    pub regs: [Reg; 4],
}

/// Integer and logical operations on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int2 {
    Add,
    Sub,
    /// `.sat`, signed 32-bit.
    AddSat,
    SubSat,
    Mul,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
}

/// Integer operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int1 {
    Neg,
    Abs,
    Not,
    Brev,
    Clz,
    Popc,
    BfindU,
    BfindS,
    /// `bfind.shiftamt`.
    BfindShiftU,
    BfindShiftS,
}

/// Integer operations on three 32-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int3 {
    MadLo,
    MadHiU,
    MadHiS,
    BfeU,
    BfeS,
    Prmt,
    /// Funnel shifts: direction and whether the amount clamps at 32 instead of wrapping.
    ShfL {
        clamp: bool,
    },
    ShfR {
        clamp: bool,
    },
    Lop3(u8),
    /// `dp4a`: signedness of the two packed operands.
    Dp4a(bool, bool),
}

/// Predicate operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// Comparisons. Floating-point forms with `u` accept unordered operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Types that comparisons read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpType {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F32 { ftz: bool },
    F16,
    Bf16,
}

/// `setp` and `set`: compare, then combine with a predicate.
#[derive(Clone, Copy, Debug)]
pub struct Compare {
    pub cmp: Cmp,
    pub ty: CmpType,
    pub a: Reg,
    pub b: Reg,
    pub logic: Logic,
    /// Predicate to combine with; [`TRUE`] with [`Logic::And`] where the text names none.
    pub c: Reg,
    pub c_negated: bool,
}

/// f32 operations on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float2 {
    Add(Mode),
    Sub(Mode),
    Mul(Mode),
    Div(Mode),
    DivApprox { ftz: bool },
    DivFull { ftz: bool },
    Min { ftz: bool, nan: bool },
    Max { ftz: bool, nan: bool },
    CopySign,
}

/// f32 operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float1 {
    Neg { ftz: bool },
    Abs { ftz: bool },
    Rcp(Mode),
    Sqrt(Mode),
    Mufu { function: Function, ftz: bool },
}

/// 16-bit floating-point operations; one value is two of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    Min { nan: bool },
    Max { nan: bool },
    Neg,
    Abs,
    Mufu(Function),
}

/// An operation on f16, bf16 or pairs of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub op: HalfOp,
    pub format: Format,
    pub packed: bool,
    pub mode: half::Mode,
}

/// Conversions of one value to another, by what happens to the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convert {
    /// Between integer types; `keep` is the width of the destination register.
    Int {
        from: convert::Integer,
        to: convert::Integer,
        saturate: bool,
        keep: u32,
    },
    /// Float to integer.
    ToInt {
        from: Format,
        to: convert::Integer,
        mode: convert::Integral,
        keep: u32,
    },
    /// Integer to float.
    FromInt {
        from: convert::Integer,
        to: Format,
        round: Round,
    },
    /// f32 to an integral f32.
    Integral(convert::Integral),
    /// f32 to f32, which flushes or saturates.
    F32 {
        ftz: bool,
        saturate: bool,
    },
    Bf16FromF32(convert::Narrow),
    F16FromF32(convert::Narrow),
    F32FromBf16,
    F32FromF16 {
        ftz: bool,
    },
    /// Two 8-bit floats to two f16.
    F16x2FromFp8x2 {
        format: Format,
        relu: bool,
    },
}

/// Conversions of two f32 into one register; the first operand lands in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvertPair {
    Bf16x2(convert::Narrow),
    F16x2(convert::Narrow),
    Fp8x2 { format: Format, relu: bool },
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    AddF32,
    AddF16x2,
    AddBf16x2,
}

/// `atom` and `red`.
#[derive(Clone, Copy, Debug)]
pub struct Atomic {
    pub op: AtomicOp,
    pub space: Space,
    pub order: Order,
    pub address: Address,
    /// 64-bit value.
    pub wide: bool,
    /// Destination; the sink for `red`.
    pub d: Reg,
    pub b: Reg,
    /// New value of `cas`.
    pub c: Reg,
}

/// Shuffle modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Shfl {
    pub mode: Shuffle,
    pub d: Reg,
    pub p: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub mask: Reg,
}

/// `vote.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// `redux.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a barrier of a CTA does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    /// `red.popc` into a 32-bit register.
    Popc {
        d: Reg,
        p: Reg,
        negated: bool,
    },
    /// `red.and` and `red.or` into a predicate.
    Vote {
        all: bool,
        d: Reg,
        p: Reg,
        negated: bool,
    },
}

/// `bar` and `barrier`.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    pub kind: BarrierKind,
    pub aligned: bool,
    pub id: Reg,
    /// Participating threads; none means all of the CTA.
    pub count: Option<Reg>,
}

/// `cp.async`.
#[derive(Clone, Copy, Debug)]
pub struct CpAsync {
    pub dst: Address,
    pub src: Address,
    pub bytes: u8,
    /// Bytes that are read; the rest is zero.
    pub src_size: Option<Reg>,
    /// Predicate under which nothing is read and all is zero.
    pub ignore_src: Option<(Reg, bool)>,
}

/// `ldmatrix` and `stmatrix` of 8×8 matrices of 16-bit elements.
#[derive(Clone, Copy, Debug)]
pub struct MatrixAccess {
    pub address: Address,
    pub transposed: bool,
    pub count: u8,
    pub regs: [Reg; 4],
}

/// Shapes and types of `mma.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaKind {
    /// f32 ← bf16 × bf16, 16×8×16.
    Bf16K16,
    /// f32 ← bf16 × bf16, 16×8×8.
    Bf16K8,
    /// f32 ← f16 × f16, 16×8×16.
    F16K16,
    /// f32 ← f16 × f16, 16×8×8.
    F16K8,
}

impl MmaKind {
    /// 32-bit registers of A and B.
    pub fn fragments(self) -> (usize, usize) {
        match self {
            MmaKind::Bf16K16 | MmaKind::F16K16 => (4, 2),
            MmaKind::Bf16K8 | MmaKind::F16K8 => (2, 1),
        }
    }

    /// Multiply-adds of one product.
    pub fn macs(self) -> u64 {
        16 * 8 * 4 * self.fragments().0 as u64
    }
}

/// `mma.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Mma {
    pub kind: MmaKind,
    pub d: [Reg; 4],
    pub a: [Reg; 4],
    pub b: [Reg; 2],
    pub c: [Reg; 4],
}
