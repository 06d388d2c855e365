//! Tensor-core products: `mma.sync.aligned.m16n8k{8,16}` on f16 and bf16 operands.
//!
//! PTX leaves order, rounding and subnormals of these instructions open. What is implemented is the model that
//! measurements of real units published (MMA-Sim, arXiv 2511.10909; Khattak and Mikaitis, arXiv 2512.07004), for one
//! output element of one step:
//!
//! 1. An infinite or NaN operand decides alone: the plain sum's infinity or NaN is the result.
//! 2. Every operand is a signed significand below 2 and an exponent; subnormals keep their format's smallest exponent.
//! 3. The terms are the exact products, not renormalised, and the accumulator. `E` is the largest exponent of a term.
//! 4. Every term is cut toward zero to `F` fraction bits at exponent `E`; the integers are added exactly.
//! 5. The sum is rounded: toward zero into f32 (subnormals included; above the range it becomes infinite), to nearest
//!    even into f16. A result of zero is +0.
//!
//! | unit | `F` | terms of one step |
//! | --- | --- | --- |
//! | Ampere, Ada | 24 | 8 products and the accumulator: a k16 instruction is two steps |
//! | Hopper | 25 | all products of the instruction and the accumulator |
//!
//! The model has not been compared with a device here. Open in the publications themselves: what zeros count for (see
//! [`ZERO_EXPONENT`]) and the sign of a negative sum that rounds to zero.

use super::{CANONICAL_NAN_16, CANONICAL_NAN_F32, Format, Lanes, Round, mma_step};

/// The tensor-core generation whose arithmetic is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaUnit {
    /// sm_80 to sm_89.
    Ampere,
    /// sm_90 running `mma.sync`.
    Hopper,
}

/// Type of the A and B operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaType {
    /// `.bf16`.
    Bf16,
    /// `.f16`.
    F16,
}

impl MmaUnit {
    /// `F` of the model.
    pub const fn fraction_bits(self) -> u32 {
        match self {
            Self::Ampere => 24,
            Self::Hopper => 25,
        }
    }

    /// Whether a k16 instruction is two steps of k8.
    pub const fn splits_k16(self) -> bool {
        matches!(self, Self::Ampere)
    }
}

impl MmaType {
    /// The operands' format.
    pub const fn format(self) -> Format {
        match self {
            Self::Bf16 => Format::BF16,
            Self::F16 => Format::F16,
        }
    }
}

/// Exponent that a zero operand counts with. Its product with `b` then takes part in `E` with this plus `b`'s exponent,
/// which matters only where zero meets a huge partner and everything else is tiny. The newest publication leaves the rule
/// open; this is that of the public release, for every format.
pub const ZERO_EXPONENT: i32 = -126;

/// `mma.sync.aligned.m16n8k16.row.col.f32.<ty>.<ty>.f32`.
pub fn mma_m16n8k16(
    unit: MmaUnit,
    ty: MmaType,
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
) -> [Lanes; 4] {
    let bits = unit.fraction_bits();
    if unit.splits_k16() {
        let first = mma_step::step(bits, ty, &a[..2], &b[..1], c);
        mma_step::step(bits, ty, &a[2..], &b[1..], &first)
    } else {
        mma_step::step(bits, ty, a, b, c)
    }
}

/// `mma.sync.aligned.m16n8k8.row.col.f32.<ty>.<ty>.f32`.
pub fn mma_m16n8k8(unit: MmaUnit, ty: MmaType, a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 4]) -> [Lanes; 4] {
    mma_step::step(unit.fraction_bits(), ty, a, std::slice::from_ref(b), c)
}

/// `mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16`: accumulator and result are pairs of f16.
pub fn mma_m16n8k16_f16(unit: MmaUnit, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 2]) -> [Lanes; 2] {
    let bits = unit.fraction_bits();
    if unit.splits_k16() {
        let first = step_f16(bits, &a[..2], &b[..1], c);
        step_f16(bits, &a[2..], &b[1..], &first)
    } else {
        step_f16(bits, a, b, c)
    }
}

/// `mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16`.
pub fn mma_m16n8k8_f16(unit: MmaUnit, a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 2]) -> [Lanes; 2] {
    step_f16(unit.fraction_bits(), a, std::slice::from_ref(b), c)
}

/// One step with f16 accumulators, element by element.
fn step_f16(fraction_bits: u32, a: &[Lanes], b: &[Lanes], c: &[Lanes; 2]) -> [Lanes; 2] {
    let mut d = [[0; 32]; 2];
    for row in 0..16 {
        let (left, width) = a_row(a, row);
        for column in 0..8 {
            let right = b_column(b, column);
            let (register, lane, shift) = (row / 8, row % 8 * 4 + column / 2, column % 2 * 16);
            let bits = c[register][lane] >> shift & 0xffff;
            let accumulator = Term::of(Format::F16, bits);
            let sum = element(fraction_bits, MmaType::F16, &left[..width], &right[..width], accumulator);
            d[register][lane] |= round_f16(sum) << shift;
        }
    }
    d
}

/// The operands of row `row` in order of k, and how many there are.
pub(crate) fn a_row(a: &[Lanes], row: usize) -> ([u32; 16], usize) {
    let mut values = [0; 16];
    for (half, pair) in a.chunks_exact(2).enumerate() {
        for k in 0..8 {
            // Register q holds row g + 8(q & 1), columns 2t and 2t + 1, of its block of eight columns.
            values[half * 8 + k] = pair[row / 8][row % 8 * 4 + k / 2] >> (k % 2 * 16) & 0xffff;
        }
    }
    (values, a.len() * 4)
}

/// The operands of column `column` in order of k.
pub(crate) fn b_column(b: &[Lanes], column: usize) -> [u32; 16] {
    let mut values = [0; 16];
    for (half, register) in b.iter().enumerate() {
        for k in 0..8 {
            values[half * 8 + k] = register[column * 4 + k / 2] >> (k % 2 * 16) & 0xffff;
        }
    }
    values
}

/// A number as the unit sees it: `significand * 2^(exponent - fraction_bits)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    significand: i64,
    exponent: i32,
    fraction_bits: u32,
    value: f64,
}

impl Term {
    pub(crate) fn of(format: Format, bits: u32) -> Self {
        let field = (bits >> format.fraction_bits & ((1 << format.exponent_bits) - 1)) as i32;
        let fraction = (bits & ((1 << format.fraction_bits) - 1)) as i64;
        let magnitude = if field == 0 { fraction } else { fraction | 1 << format.fraction_bits };
        let negative = bits >> (format.bits() - 1) & 1 != 0;
        Self {
            significand: if negative { -magnitude } else { magnitude },
            exponent: if magnitude == 0 { ZERO_EXPONENT } else { format.min_exponent() + (field - 1).max(0) },
            fraction_bits: format.fraction_bits,
            value: format.value(bits),
        }
    }

    fn times(self, other: Self) -> Self {
        Self {
            significand: self.significand * other.significand,
            exponent: self.exponent + other.exponent,
            fraction_bits: self.fraction_bits + other.fraction_bits,
            value: self.value * other.value,
        }
    }

    /// Cut toward zero to `bits` fraction bits at exponent `largest`.
    fn aligned(self, largest: i32, bits: u32) -> i64 {
        let magnitude = self.significand.unsigned_abs() << (bits - self.fraction_bits);
        let cut = (magnitude >> (largest - self.exponent).min(63)) as i64;
        if self.significand < 0 { -cut } else { cut }
    }
}

/// The sum of one output element before its final rounding: exact in f64, or the infinity or NaN that decides.
pub(crate) fn element(fraction_bits: u32, ty: MmaType, a: &[u32], b: &[u32], c: Term) -> f64 {
    let mut terms = [c; 17];
    for (term, (&x, &y)) in terms[1..].iter_mut().zip(a.iter().zip(b)) {
        *term = Term::of(ty.format(), x).times(Term::of(ty.format(), y));
    }
    let terms = &terms[..a.len() + 1];
    // No finite operands reach an infinity in f64.
    let plain: f64 = terms.iter().map(|t| t.value).sum();
    if !plain.is_finite() {
        return plain;
    }
    let largest = terms.iter().map(|t| t.exponent).max().unwrap_or(0);
    let sum: i64 = terms.iter().map(|t| t.aligned(largest, fraction_bits)).sum();
    sum as f64 * super::format::power_of_two(largest - fraction_bits as i32)
}

/// Toward zero into f32; too large becomes infinite, zero is +0.
pub(crate) fn round_f32(sum: f64) -> u32 {
    if sum.is_nan() {
        return CANONICAL_NAN_F32;
    }
    let bits = Format::F32.narrow(sum, Round::Zero, false);
    if sum.abs() >= super::format::power_of_two(128) {
        bits & 0x8000_0000 | Format::F32.overflow
    } else {
        positive_zero(bits, 32)
    }
}

/// To nearest even into f16; zero is +0.
fn round_f16(sum: f64) -> u32 {
    if sum.is_nan() {
        CANONICAL_NAN_16
    } else {
        positive_zero(Format::F16.narrow(sum, Round::Nearest, false), 16)
    }
}

fn positive_zero(bits: u32, width: u32) -> u32 {
    if bits == 1 << (width - 1) { 0 } else { bits }
}
